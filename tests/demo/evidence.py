"""What was on the wire and what the proxies hold: facts that do not come from the agents.

TLS is told by its framing: each direction of a connection must be TLS records from the first byte
to the last (RFC 8446, 5.1). Captured bytes prove absence only if the kernel dropped none.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.lab import admin, capture
from tests.lab.host import Host

_HEADER = 5


@dataclass(frozen=True)
class Wire:
    """What a capture saw of one port. `records` is 0 where anything was not TLS."""

    packets: int
    records: int
    is_complete: bool
    payload: bytes

    def shows(self, text: str) -> bool:
        """Whether this text can be read in it."""
        return text.encode() in self.payload

    def hides(self, text: str) -> bool:
        """Whether all of it is TLS and this text is not in it."""
        return self.is_complete and self.records > 0 and not self.shows(text)


def read_wire(taken: capture.Capture, port: int) -> Wire:
    """Judge what a stopped capture holds of connections to `port`."""
    segments = taken.segments(port)
    streams = join_streams(segments)
    counts = [count_records(stream) for stream in streams]
    return Wire(
        packets=len(segments),
        records=sum(counts) if counts and all(counts) else 0,
        is_complete=taken.dropped == 0,
        payload=b"\0".join(streams),
    )


def join_streams(segments: Sequence[capture.Segment]) -> list[bytes]:
    """Put together what each side of each connection sent, in order of sequence numbers."""
    streams: dict[tuple[str, int, str, int], dict[int, bytes]] = {}
    for each in segments:
        side = (each.source, each.source_port, each.destination, each.destination_port)
        if each.payload:
            # A repeated segment has the same number; numbers do not wrap in so short a time.
            streams.setdefault(side, {})[each.sequence] = each.payload
    return [b"".join(parts[at] for at in sorted(parts)) for parts in streams.values()]


def count_records(stream: bytes) -> int:
    """Return how many TLS records the bytes are made of; 0 if they are not, or not whole."""
    at, count = 0, 0
    while at < len(stream):
        header = stream[at : at + _HEADER]
        if len(header) < _HEADER or header[0] not in capture.TLS_RECORD_TYPES or header[1] != 3:
            return 0
        at += _HEADER + int.from_bytes(header[3:], "big")
        count += 1
    return count if at == len(stream) else 0


def held_serials(host: Host) -> set[int]:
    """Return the serial numbers of the certificates with which this host's Envoy shows itself."""
    socket = admin.find_socket(host.runtime)
    _, text = admin.ask(socket, "/certs") if socket else admin.ask_port(host.namespace, "/certs")
    answer = json.loads(text)
    chains = [entry.get("cert_chain", []) for entry in answer["certificates"]]
    return {int(chain[0]["serial_number"], 16) for chain in chains if chain}


def wait_until(what: str, is_it: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Ask until it is so: for what nobody tells of. Raises TimeoutError naming `what`."""
    end = time.monotonic() + timeout_s
    while not is_it():
        if time.monotonic() > end:
            raise TimeoutError(f"not seen within {timeout_s:g} s: {what}")
        time.sleep(0.01)
