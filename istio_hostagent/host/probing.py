"""Probe packets: sent from sockets of other identities, recorded where they were going, dropped.

Not here: who makes the sockets (`workers.probe_sockets`), what follows from the outcomes
(`redirect.expectations`). Nothing leaves the host and nothing reaches an application or the proxy:
a table of our own records and drops each packet right after its translation was decided, and every
connection is given up before the table goes. Nothing here waits.
"""

import contextlib
import errno
import functools
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import HostAgentError
from ..redirect.expectations import Expectation, Outcome, Sender, Shape
from . import arrivals, frametable, handover, probepool, probetable, rtnetlink, synpacket
from .nfnetlink import connection, messages
from .zones import find_setters

_LOOPBACK = "lo"
_DATAGRAM = bytes(12)  # the head of a query for a name (RFC 1035, 4.1.1) that asks for none


Parts = Callable[
    [Sequence[probetable.Source], Sequence[probetable.Source], str], Iterable[messages.Message]
]


class Round:
    """Some packets that were sent at once; `outcomes` in the order of their expectations."""

    def __init__(
        self,
        expectations: Sequence[Expectation],
        pool: probepool.Pool,
        link: connection.Connection,
        also: Parts | None = None,
    ) -> None:
        """Send them; raises ApplyRejected, KernelBusy, NotPermitted, OSError with none sent.

        What could not be sent has its reason among the outcomes. `also`: further parts of the
        table, made from the sources of packets that leave and of those from outside.
        """
        self.outcomes = [Outcome() for _ in expectations]
        self._expectations = expectations
        self._pool = pool
        self._link = link
        self._zoned_by: str | None = None  # nobody has looked for them yet
        self._has_blamed = False
        self._holders = contextlib.ExitStack()
        self._bound: dict[int, socket.socket] = {}
        try:
            self._sources = self._bind_all()
            local, wire, answers, late = self._sort_sources()
            self._arrivals = self._prepare_arrivals()
            more: Callable[[str], Iterable[messages.Message]] = _nothing
            if self._arrivals is not None:
                more = self._arrivals.build
            if also is not None:
                more = functools.partial(also, local, wire)
            transparent = [
                source
                for index, source in self._sources.items()
                if expectations[index].is_transparent
            ]
            self._table = probetable.ProbeTable(
                link, local, wire, answers, late, more, transparent
            )
        except (HostAgentError, OSError):
            self._give_back(set())
            self._holders.close()
            raise
        self._under_way = {index for index in self._bound if self._connect(index)}
        self._send_packets()
        self._awaited = self._send_frames()
        if self._arrivals is not None and pool.device is not None:
            code = self._arrivals.send(pool.device)
            if code:
                pool.give_up_device(code)

    @property
    def source_ports(self) -> dict[int, int]:
        """The source port of each packet that has one of its own, by its number."""
        return {index: source.port for index, source in self._sources.items()}

    def _prepare_arrivals(self) -> arrivals.Arrivals | None:
        """What follows frames from a link; None: there are none, or no device to send them."""
        made = {
            index: each
            for index, each in enumerate(self._expectations)
            if each.sender is Sender.ON_LINK
        }
        if self._pool.device is not None:
            return arrivals.Arrivals(made) if made else None
        code = self._pool.device_errno
        for index in made:
            self._failed(index, code if code in probepool.PASSING else errno.ENODEV)
        return None

    def _bind_all(self) -> dict[int, probetable.Source]:
        """Give each packet a source port that nobody else has meanwhile."""
        sources: dict[int, probetable.Source] = {}
        for index, expectation in enumerate(self._expectations):
            kind = probepool.kind_of(expectation)
            if expectation.sender is Sender.ON_LINK:
                continue
            try:
                if kind.is_raw or expectation.sender is Sender.NEIGHBOUR:
                    family = socket.AF_INET6 if kind.is_v6 else socket.AF_INET
                    is_udp = expectation.shape.is_datagram
                    type_ = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
                    sock = self._holders.enter_context(socket.socket(family, type_))
                    if kind.is_v6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                else:
                    sock = self._bound[index] = self._pool.take(kind)
                probepool.bind_free(sock, expectation.source)
            except OSError as error:
                self._failed(index, error.errno)
                if index in self._bound:
                    self._pool.give_back(kind, self._bound.pop(index))
            else:
                port = sock.getsockname()[1]
                is_datagram = expectation.shape.is_datagram
                sources[index] = probetable.Source(kind.is_v6, port, is_datagram)
        return sources

    def _sort_sources(self) -> tuple[list[probetable.Source], ...]:
        """The sources of packets that leave, of those from outside, of answers, and of refused."""
        sorted_: tuple[list[probetable.Source], ...] = ([], [], [], [])
        for index, source in self._sources.items():
            expectation = self._expectations[index]
            is_wire = expectation.sender is Sender.NEIGHBOUR
            which = 1 if is_wire else 3 if expectation.is_refused else 0
            which = 2 if expectation.shape.is_answer else which
            sorted_[which].append(source)
        return sorted_

    def _connect(self, index: int) -> bool:
        """Send the first packet of a connection; whether the connection is under way."""
        expectation = self._expectations[index]
        target = (expectation.destination, expectation.port)
        if expectation.shape is Shape.DATAGRAM:
            try:
                self._bound[index].sendto(_DATAGRAM, target)
            except PermissionError:
                pass  # a rule dropped it, which is what we look at
            except OSError as error:
                self._failed(index, error.errno)
            return False
        code = self._bound[index].connect_ex(target)
        if code != errno.EINPROGRESS:
            self._failed(index, code)
        return code == errno.EINPROGRESS

    def _give_back(self, under_way: set[int]) -> None:
        """Give all connections up: the kernel has sent and dropped what we look at.

        shutdown(2) in the state SYN_SENT makes a socket as it was before connect(2), and gives
        its port back (inet_shutdown()). One that does not obey is not used again.
        """
        for index, sock in self._bound.items():
            if index in under_way:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    sock.close()
                    continue
            self._pool.give_back(probepool.kind_of(self._expectations[index]), sock)

    def _send_packets(self) -> None:
        """Send what has no connection behind it: from this host to itself."""
        for index, source in self._sources.items():
            expectation = self._expectations[index]
            kind = probepool.kind_of(expectation)
            if not kind.is_raw:
                continue
            own = ipaddress.ip_address(expectation.destination)
            ports = (source.port, expectation.port)
            if expectation.shape.is_answer:
                ports = (expectation.port, source.port)
            if source.is_udp:
                packet = synpacket.build_datagram(own, ports[0], own, ports[1], _DATAGRAM)
            else:
                is_answer = expectation.shape.is_answer
                flags = synpacket.SYN_ACK if is_answer else synpacket.SYN
                packet = synpacket.build_packet(own, ports[0], own, ports[1], flags)
            try:
                self._pool.send_packet(kind, packet, expectation.destination)
            except PermissionError:
                pass  # how the kernel says that a rule dropped it, which is what we look at
            except OSError as error:
                self._failed(index, error.errno)

    def _send_frames(self) -> set[probetable.Source]:
        """Put the packets of neighbours on `lo`; gives the sources of those that must be seen."""
        sent: set[probetable.Source] = set()
        for index, source in self._sources.items():
            expectation = self._expectations[index]
            if expectation.sender is not Sender.NEIGHBOUR:
                continue
            neighbour = probetable.NEIGHBOUR_V6 if source.is_v6 else probetable.NEIGHBOUR_V4
            destination = ipaddress.ip_address(expectation.destination)
            frame = synpacket.build_frame(neighbour, source.port, destination, expectation.port)
            try:
                self._pool.send_frame(frame)
            except OSError as error:
                self._failed(index, error.errno)
            else:
                sent.add(source)
        return sent

    def _failed(self, index: int, code: int | None) -> None:
        self.outcomes[index] = Outcome(errno=code or errno.EIO)

    def look(self) -> bool:
        """Read what was recorded; whether every packet from outside has been seen.

        They may take a moment; the others have been decided when connect(2) returned. Raises
        KernelBusy, NotPermitted.
        """
        seen = self._table.read()
        zones = self._table.read_zones()
        if self._zoned_by is None and any(not each.is_udp for each in zones):
            self._zoned_by = find_setters(self._link)
        entered, taken = self._table.read_transparent()
        for index, source in self._sources.items():
            if source in entered and source not in seen:
                self.outcomes[index] = Outcome(has_entered=True, is_taken=source in taken)
            if source in seen:
                zone = zones.get(source, 0)
                by = (self._zoned_by or "") if zone else ""
                address, port, interface = seen[source]
                self.outcomes[index] = Outcome(
                    address,
                    port,
                    zone=zone,
                    zoned_by=by,
                    interface=interface,
                    is_own=_is_own_after_all(self._expectations[index], address, port, interface),
                )
        return self._look_at_arrivals() and self._awaited <= seen.keys() | entered

    def _look_at_arrivals(self) -> bool:
        if self._arrivals is None:
            return True
        keys = (key for name in frametable.SETS for key in self._table.read_keys(name))
        is_complete = self._arrivals.look(frametable.read(keys))
        device = self._pool.device
        if is_complete and not self._has_blamed and self._arrivals.missing and device is not None:
            self._has_blamed = True
            self._table.add(self._arrivals.trace(self._table.name))
            self._arrivals.blame(self._link, device)
        for index, outcome in self._arrivals.outcomes():
            self.outcomes[index] = outcome
        return is_complete

    def close(self) -> None:
        """Give the connections up, then take the table away; raises nothing.

        In this order no packet of ours is ever sent again and leaves. Until then nobody else gets
        one of the ports, whose packets are dropped.
        """
        self._give_back(self._under_way)
        self._table.close()
        self._holders.close()


class Packets:
    """The sockets of one process that probes, and its connection to nf_tables."""

    def __init__(self) -> None:
        """Start without any."""
        self._pool = probepool.Pool()
        self._link: connection.Connection | None = None

    def open_channel(self) -> handover.Handover:
        """Make the way on which a worker hands sockets over; raises OSError."""
        return handover.Handover()

    def fill(
        self,
        counts: Mapping[probepool.Kind, int],
        errnos: Sequence[int],
        made: probepool.Made,
    ) -> bool:
        """As `probepool.Pool.fill`."""
        return self._pool.fill(counts, errnos, made)

    def has(self, counts: Mapping[probepool.Kind, int]) -> bool:
        """As `probepool.Pool.has`."""
        return self._pool.has(counts)

    def send(self, made: Sequence[Expectation]) -> Round:
        """Send one packet for each expectation; raises HostAgentError, OSError with none sent."""
        return Round(made, self._pool, self._connect())

    def _connect(self) -> connection.Connection:
        if self._link is None or self._link.socket.fileno() < 0:
            self._link = connection.Connection()
        return self._link

    def close(self) -> None:
        """Close everything; may be called twice."""
        self._pool.close()
        if self._link is not None:
            self._link.socket.close()


def _is_own_after_all(made: Expectation, address: str, port: int, interface: str) -> bool:
    """Whether a packet that went elsewhere than expected was one to this host itself.

    `interface`: by which it was going before any translation, or came in.
    """
    is_unchanged = (address, port) == (made.destination, made.port)
    if not made.is_elsewhere or is_unchanged is not bool(made.captured_at):
        return False
    if made.sender is not Sender.NEIGHBOUR:
        return interface == _LOOPBACK
    route = rtnetlink.find_route(ipaddress.ip_address(made.destination))
    return route is not None and route.interface == _LOOPBACK


def _nothing(_table: str) -> tuple[messages.Message, ...]:
    return ()
