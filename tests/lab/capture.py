"""What was on the wire: packets of one interface of a namespace, in memory and as a pcap file.

    with Capture(cluster, "port0") as capture:
        ...traffic...
        capture.stop()
    assert b"secret" not in capture.payload()

A packet socket of this process, made inside the namespace: what is sent after `with` was entered is
seen, with no program to wait for, and stop() takes in all that was on the wire before it. Frames are
kept whole; TCP over IPv4 and IPv6 without extension headers is understood, the rest counted.
"""

import ipaddress
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import netns

# linux/if_ether.h, linux/if_packet.h
ETH_P_ALL = 0x0003
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
SOL_PACKET, PACKET_STATISTICS, PACKET_OUTGOING = 263, 6, 4
SO_RCVBUFFORCE = 33
BUFFER = 32 << 20
MAX_FRAME = 1 << 17
TLS_RECORD_TYPES = frozenset({20, 21, 22, 23})


@dataclass(frozen=True)
class Frame:
    """One Ethernet frame with the time it was read (seconds since 1970)."""

    at: float
    data: bytes


@dataclass(frozen=True)
class Segment:
    """One TCP segment. Addresses as text; `flags` as in the header (2 SYN, 16 ACK, 4 RST)."""

    at: float
    source: str
    source_port: int
    destination: str
    destination_port: int
    flags: int
    sequence: int
    payload: bytes

    @property
    def is_opening(self) -> bool:
        """Whether this is a client's first packet: SYN without ACK."""
        return self.flags & 18 == 2

    @property
    def is_reset(self) -> bool:
        """Whether the connection is broken by it."""
        return bool(self.flags & 4)

    @property
    def is_tls(self) -> bool:
        """Whether the payload begins like a TLS record (RFC 8446, 5.1)."""
        return (
            len(self.payload) >= 5
            and self.payload[0] in TLS_RECORD_TYPES
            and self.payload[1] == 3
            and self.payload[2] <= 4
        )


class Capture:
    """Frames of one interface, from entering to stop(). A context manager."""

    def __init__(self, namespace: netns.Namespace, interface: str) -> None:
        self._namespace = namespace
        self._interface = interface
        self._frames: list[Frame] = []
        self._news = threading.Condition()
        self._socket: socket.socket | None = None
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def __enter__(self) -> "Capture":
        self._socket = self._namespace.inside(self._open)
        self._ends = socket.socketpair()
        ends = (self._socket, self._ends[0])
        self._thread = threading.Thread(target=self._read, args=ends, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take in what is there and end; calling it twice is fine.

        Afterwards `dropped` is how many packets the kernel had no room for: with any, absence in
        the capture proves nothing.
        """
        if self._socket is None or self._ends is None or self._thread is None:
            return
        self._ends[1].send(b"x")
        self._thread.join()
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self.dropped = struct.unpack("II", statistics)[1]
        for each in (self._socket, *self._ends):
            each.close()
        self._socket = None

    def frames(self) -> tuple[Frame, ...]:
        """Return the frames so far."""
        with self._news:
            return tuple(self._frames)

    def segments(self, port: int | None = None) -> list[Segment]:
        """Return the TCP segments so far, those from or to `port` if it is given."""
        parsed = (parse_segment(frame) for frame in self.frames())
        return [
            segment
            for segment in parsed
            if segment is not None
            and (port is None or port in (segment.source_port, segment.destination_port))
        ]

    def payload(self, port: int | None = None) -> bytes:
        """Return all TCP payloads in the order seen, one after another."""
        return b"".join(segment.payload for segment in self.segments(port))

    def openings(self, port: int | None = None) -> list[Segment]:
        """Return the connection attempts seen, one per attempt: repeated SYNs count once."""
        first = dict[tuple[str, int, str, int, int], Segment]()
        for segment in self.segments(port):
            if segment.is_opening:
                key = (
                    segment.source,
                    segment.source_port,
                    segment.destination,
                    segment.destination_port,
                    segment.sequence,
                )
                first.setdefault(key, segment)
        return list(first.values())

    def wait_for(self, is_it: Callable[[Segment], bool], *, timeout_s: float = 60.0) -> Segment:
        """Return the first segment that fits, waiting for it. Raises TimeoutError."""
        looked_at = 0

        def look() -> Segment | None:
            nonlocal looked_at
            fresh, looked_at = self._frames[looked_at:], len(self._frames)
            parsed = (parse_segment(frame) for frame in fresh)
            return next((each for each in parsed if each is not None and is_it(each)), None)

        with self._news:
            found = self._news.wait_for(look, timeout_s)
        if found is None:
            raise TimeoutError(f"not among {looked_at} frames of {self._interface}")
        return found

    def write_pcap(self, path: Path) -> None:
        """Write what was captured for tcpdump, tshark and people."""
        path.write_bytes(b"".join(render_pcap(self.frames())))

    def _open(self) -> socket.socket:
        # Protocol 0 receives nothing until bind() names the interface and the protocol.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            sock.bind((self._interface, ETH_P_ALL))
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock

    def _read(self, sock: socket.socket, stopper: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            selector.register(stopper, selectors.EVENT_READ)
            is_over = False
            while not is_over:
                # Asked before the last look: all that was there by then is taken in.
                is_over = any(key.fileobj is stopper for key, _ in selector.select())
                self._drain(sock)

    def _drain(self, sock: socket.socket) -> None:
        while True:
            try:
                data, address = sock.recvfrom(MAX_FRAME)
            except BlockingIOError:
                return
            # On the loopback every packet is seen going out and coming in.
            if address[0] == "lo" and address[2] == PACKET_OUTGOING:
                continue
            with self._news:
                self._frames.append(Frame(time.time(), data))
                self._news.notify_all()


def parse_segment(frame: Frame) -> Segment | None:
    """Return the TCP segment of an Ethernet frame, None for everything else."""
    if len(frame.data) < 14:
        return None
    (kind,) = struct.unpack_from("!H", frame.data, 12)
    packet = frame.data[14:]
    if kind == ETH_P_IP and len(packet) >= 20 and packet[9] == socket.IPPROTO_TCP:
        size = struct.unpack_from("!H", packet, 2)[0]
        tcp = packet[(packet[0] & 15) * 4 : size or len(packet)]
        addresses = packet[12:16], packet[16:20]
    elif kind == ETH_P_IPV6 and len(packet) >= 40 and packet[6] == socket.IPPROTO_TCP:
        size = struct.unpack_from("!H", packet, 4)[0]
        tcp = packet[40 : 40 + size if size else len(packet)]
        addresses = packet[8:24], packet[24:40]
    else:
        return None
    if len(tcp) < 20:
        return None
    source_port, destination_port, sequence = struct.unpack_from("!HHI", tcp)
    source, destination = (str(ipaddress.ip_address(each)) for each in addresses)
    payload = tcp[(tcp[12] >> 4) * 4 :]
    return Segment(
        frame.at, source, source_port, destination, destination_port, tcp[13], sequence, payload
    )


def render_pcap(frames: tuple[Frame, ...]) -> Iterator[bytes]:
    """Yield a capture file: the classic format, microseconds, Ethernet (pcap-savefile(5))."""
    yield struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, MAX_FRAME, 1)
    for frame in frames:
        seconds, micros = divmod(round(frame.at * 1_000_000), 1_000_000)
        yield struct.pack("=IIII", seconds, micros, len(frame.data), len(frame.data)) + frame.data
