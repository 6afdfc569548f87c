"""The sockets that probe packets are sent from: which are needed, and which there are.

Not here: who makes them (`workers.probe_sockets`), sending (`probing`).
"""

import collections
import errno
import io
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..redirect.expectations import Expectation, Sender, Shape
from . import probedevice

# Their packets enter from outside: no socket of ours sends them.
_FROM_OUTSIDE = (Sender.NEIGHBOUR, Sender.ON_LINK)
# Why there is no device for now: the next proof gets everything anew. EIO: the kernel was busy, or
# the device is down.
PASSING = frozenset(
    (
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO),
        *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
    )
)
# Somebody has taken the device away, or the interface to which it led.
_GONE = frozenset((errno.EBADFD, errno.ENODEV))
# What a worker hands over: sockets, and the device as an open file.
Made = Sequence[socket.socket | io.FileIO]
# So many sockets of one kind are kept; of more packets of that kind some are sent later.
MAX_SOCKETS = 64


class Kind(NamedTuple):
    """What a socket is good for: whose it is, the IP version, and the address it is bound to.

    `is_raw`: it sends packets as bytes, and is not bound. `uid`, `gid`: as in `Expectation`.
    """

    sender: Sender
    is_v6: bool
    source: str
    is_raw: bool = False
    is_datagram: bool = False
    uid: int = -1
    gid: int = -1


def kind_of(expectation: Expectation) -> Kind:
    """Which socket a packet is sent from; for one of a neighbour, which holds its port."""
    return Kind(
        expectation.sender,
        ":" in expectation.destination,
        expectation.source,
        is_raw=expectation.shape.is_raw,
        is_datagram=expectation.shape is Shape.DATAGRAM,
        uid=expectation.uid,
        gid=expectation.gid,
    )


class Pool:
    """The sockets that packets are sent from, made once by others and used again and again."""

    def __init__(self) -> None:
        """Start with none."""
        self._idle: dict[Kind, list[socket.socket]] = {}
        self._errnos: dict[Kind, int] = {}
        self._packet: socket.socket | None = None
        self._packet_errno = errno.EBADF
        self.device: probedevice.Device | None = None
        self.device_errno = 0
        self._is_outworn = False

    def fill(
        self,
        counts: Mapping[Kind, int],
        errnos: Sequence[int],
        made: Made,
    ) -> bool:
        """Take what was made for `counts`, in its order; False if it is not as many.

        `errnos`: of each kind, of the packet socket and of the device, 0 or why there is none.
        """
        self.close()
        *of_kinds, self._packet_errno, self.device_errno = errnos
        kinds = [kind for kind, code in zip(counts, of_kinds, strict=False) if not code]
        sockets = [each for each in made if isinstance(each, socket.socket)]
        files = [each for each in made if isinstance(each, io.FileIO)]
        expected = sum(counts[kind] for kind in kinds) + (not self._packet_errno)
        if (len(sockets), len(files)) != (expected, int(not self.device_errno)):
            for each in made:
                each.close()
            return False
        left = iter(sockets)
        for kind, code in zip(counts, of_kinds, strict=False):
            self._errnos[kind] = code
            self._idle[kind] = [] if code else [next(left) for _ in range(counts[kind])]
            for sock in self._idle[kind]:
                sock.setblocking(False)
        self._packet = next(left, None)
        self._take_device(files)
        self._is_outworn = self.device_errno in PASSING
        return True

    def _take_device(self, files: Sequence[io.FileIO]) -> None:
        for file in files:
            try:
                self.device = probedevice.Device(file)
            except OSError as error:
                self.device_errno = error.errno or errno.EIO
                file.close()

    def give_up_device(self, code: int) -> None:
        """It does not work; if it may work again, the next proof gets everything anew."""
        if self.device is not None:
            self.device.close()
        self.device = None
        self.device_errno = code
        self._is_outworn = code in PASSING | _GONE

    def has(self, counts: Mapping[Kind, int]) -> bool:
        """Whether so many of each kind are there."""
        is_whole = all(len(self._idle.get(kind, ())) >= count for kind, count in counts.items())
        return is_whole and self._packet is not None and not self._is_outworn

    def take(self, kind: Kind) -> socket.socket:
        """Take one out; raises OSError with the reason why there is none."""
        if not self._idle.get(kind):
            raise OSError(self._errnos.get(kind) or errno.EMFILE, "no socket")
        return self._idle[kind].pop()

    def give_back(self, kind: Kind, sock: socket.socket) -> None:
        """It may be used again."""
        self._idle[kind].append(sock)

    def send_packet(self, kind: Kind, packet: bytes, destination: str) -> None:
        """Send a packet, with its IP header, by a raw socket of this kind; raises OSError."""
        sock = self.take(kind)
        try:
            sock.sendto(packet, (destination, 0))
        finally:
            self.give_back(kind, sock)

    def send_frame(self, frame: bytes) -> None:
        """Put an Ethernet frame on `lo`, as if it came from a cable; raises OSError."""
        if self._packet is None:
            raise OSError(self._packet_errno, "no packet socket")
        self._packet.sendto(frame, ("lo", 0))

    def close(self) -> None:
        """Close all that are idle."""
        for sockets in self._idle.values():
            for each in sockets:
                each.close()
        self._idle.clear()
        if self._packet is not None:
            self._packet.close()
            self._packet = None
        if self.device is not None:
            self.device.close()
            self.device = None


def count(expectations: Iterable[Expectation]) -> dict[Kind, int]:
    """How many sockets of each kind these packets need, no more than MAX_SOCKETS of one.

    One raw socket sends any number of packets.
    """
    kinds = collections.Counter(map(kind_of, expectations))
    return {
        kind: 1 if kind.is_raw else min(number, MAX_SOCKETS)
        for kind, number in kinds.items()
        if kind.sender not in _FROM_OUTSIDE
    }


def first_round(expectations: Sequence[Expectation]) -> int:
    """How many of these, from the first one on, can be sent at once."""
    kinds: collections.Counter[Kind] = collections.Counter()
    for index, expectation in enumerate(expectations):
        kind = kind_of(expectation)
        kinds[kind] += 1
        if kinds[kind] > MAX_SOCKETS:
            return index
    return len(expectations)


def bind_free(sock: socket.socket, address: str) -> None:
    """Bind to a free port; one that is bound already, to the same address, keeps its own.

    An empty address is any address.
    """
    try:
        sock.bind((address, 0))
    except OSError as error:
        # The route was missing the last time: connect(2) failed before it could be undone.
        if error.errno != errno.EINVAL:
            raise
