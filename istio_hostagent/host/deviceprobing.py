"""Probe packets where nf_tables is refused: sent out by the probe device, and read from it there.

A socket that is bound to that device (socket(7), SO_BINDTODEVICE) sends its packets there wherever
they go, also once they were translated: ip_route_me_harder() looks for another route by the same
device, and takes a destination to which none leads for one on its link. So what is written to the
device shows where a packet was going behind all rules of all tables, and leaves no host. What this
shows is less than `probing` does: of IPv4, of connections that this host sends elsewhere, and
nothing of rules that look at the outgoing interface. What is not sent, or does not come out there
(others may drop what leaves by an interface that they do not know), has the outcome of a host on
which no packet can be followed. Nothing here waits.
"""

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Mapping, Sequence

from ..redirect.expectations import Expectation, Outcome, Sender, Shape
from . import handover, probedevice, probepool, rtnetlink

_IPV4_DESTINATION, _IPV4_PROTOCOL = slice(16, 20), 9
_SHORTEST = 40  # of IPv4 and TCP, both without options
_PORTS = struct.Struct(">HH")
# Whose packets are not sent by sockets of this host.
_FROM_OUTSIDE = (Sender.NEIGHBOUR, Sender.ON_LINK)


class Packets:
    """The promises of `ports.Packets`."""

    def __init__(self) -> None:
        """Start without any socket."""
        self._pool = probepool.Pool()

    def open_channel(self) -> handover.Handover:
        """Make the way on which a worker hands sockets over; raises OSError."""
        return handover.Handover()

    def fill(
        self, counts: Mapping[probepool.Kind, int], errnos: Sequence[int], made: probepool.Made
    ) -> bool:
        """As `probepool.Pool.fill`."""
        return self._pool.fill(counts, errnos, made)

    def has(self, counts: Mapping[probepool.Kind, int]) -> bool:
        """As `probepool.Pool.has`."""
        return self._pool.has(counts)

    def send(self, made: Sequence[Expectation]) -> "Round":
        """Send one packet for each that can be followed; raises KernelBusy, NotPermitted."""
        return Round(made, self._pool)

    def close(self) -> None:
        """Close everything; may be called twice."""
        self._pool.close()


class Round:
    """Some packets that were sent at once; `outcomes` in the order of their expectations."""

    def __init__(self, made: Sequence[Expectation], pool: probepool.Pool) -> None:
        """Send them; raises KernelBusy, NotPermitted with none sent."""
        self.outcomes = [Outcome(errno=errno.EPROTONOSUPPORT) for _ in made]
        self._made = made
        self._pool = pool
        self._sent: dict[int, int] = {}  # number of the expectation, by source port
        self._under_way: dict[int, socket.socket] = {}
        device = pool.device
        if device is None:
            return
        own = {each.address for each in rtnetlink.probe_addresses()}
        _drain(device)
        for number, each in enumerate(made):
            if _is_followed(each) and ipaddress.ip_address(each.destination) not in own:
                self._send(number, device)

    def _send(self, number: int, device: probedevice.Device) -> None:
        expectation = self._made[number]
        kind = probepool.kind_of(expectation)
        code = 0
        try:
            sock = self._pool.take(kind)
        except OSError as error:
            self._failed(number, error.errno)
            return
        self._under_way[number] = sock
        if not _is_bound_to(sock, device):
            return
        try:
            probepool.bind_free(sock, expectation.source)
            code = sock.connect_ex((expectation.destination, expectation.port))
        except OSError as error:
            code = error.errno or errno.EIO
        if code != errno.EINPROGRESS:
            self._failed(number, code)
            return
        self._sent[sock.getsockname()[1]] = number

    def _failed(self, number: int, code: int | None) -> None:
        self.outcomes[number] = Outcome(errno=code or errno.EIO)

    def look(self) -> bool:
        """Read where they were going, which is known once connect(2) has returned."""
        device = self._pool.device
        if device is not None:
            with contextlib.suppress(OSError):  # somebody has taken it away: nothing is seen
                for frame in device.read():
                    self._take(frame)
        return True

    def _take(self, frame: bytes) -> None:
        found = _read_frame(frame)
        if found is None:
            return
        address, source, port = found
        if source in self._sent:
            self.outcomes[self._sent[source]] = Outcome(address, port)
        elif port in self._sent:
            # A rule refuses it: that is sent back by the device, and in its sender's name.
            number = self._sent[port]
            expectation = self._made[number]
            self.outcomes[number] = Outcome(expectation.destination, expectation.port)

    def close(self) -> None:
        """Give the connections up: what is sent again until then goes to the device as well."""
        for number, sock in self._under_way.items():
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    sock.close()
                    continue
            self._pool.give_back(probepool.kind_of(self._made[number]), sock)
        self._under_way.clear()


def _is_followed(expectation: Expectation) -> bool:
    """Whether the device shows where it goes."""
    address = ipaddress.ip_address(expectation.destination)
    is_sent = expectation.shape is Shape.CONNECTION and expectation.sender not in _FROM_OUTSIDE
    return is_sent and address.version == 4 and not address.is_loopback


def _is_bound_to(sock: socket.socket, device: probedevice.Device) -> bool:
    """Send its packets to the device; once they go there, only CAP_NET_RAW could change that."""
    name = device.name.encode()
    try:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") != name:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
    except OSError:
        return False
    return True


def _drain(device: probedevice.Device) -> None:
    """Forget what earlier connections have sent again."""
    with contextlib.suppress(OSError):
        for _ in device.read():
            pass


def _read_frame(frame: bytes) -> tuple[str, int, int] | None:
    """Destination, source port and destination port of a packet of TCP; None: it is none."""
    if len(frame) < _SHORTEST or frame[0] >> 4 != 4 or frame[_IPV4_PROTOCOL] != socket.IPPROTO_TCP:
        return None
    source, port = _PORTS.unpack_from(frame, 4 * (frame[0] & 15))
    return socket.inet_ntoa(frame[_IPV4_DESTINATION]), source, port
