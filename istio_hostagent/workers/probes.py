"""Send one packet for each promise of the configuration and tell where it was going.

In: {"promises": [{"sender", "destination", "port", "source"}, ...], "proxy_uid", "proxy_gid"}.
Out: {"outcomes": [...]}, one for each promise in order: {"address", "port"} after all address
translation, {"errno"} if it could not be sent, {} if nobody saw it. If the kernel refuses what
records them: {"error": {"code", "message", "hint"}}.

Not here: judging (`redirect.promises`). Nothing leaves the host and nothing reaches an application
or the proxy: each packet is recorded and dropped right after its translation was decided, and the
sockets are closed before what drops them goes.
"""

import contextlib
import errno
import ipaddress
import json
import os
import select
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import HostAgentError
from ..host import probetable, synpacket

# Well below the usual limit of open files (1024), which ordinary users keep.
_AT_ONCE = 400
_ORDINARY_ID = 65534  # nobody
_DEADLINE_S = 0.3
_POLL_S = 0.002
_NEIGHBOUR = "neighbour"


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        answer = {"outcomes": _probe_all(request)}
    except HostAgentError as error:
        answer = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    json.dump(answer, sys.stdout)


def _probe_all(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    proxy = request["proxy_uid"], request["proxy_gid"]
    promises = request["promises"]
    outcomes: list[dict[str, Any]] = []
    for start in range(0, len(promises), _AT_ONCE):
        outcomes += _probe(promises[start : start + _AT_ONCE], proxy)
    return outcomes


def _probe(promises: Sequence[Mapping[str, Any]], proxy: tuple[int, int]) -> list[dict[str, Any]]:
    """Send some promises at once."""
    outcomes: list[dict[str, Any]] = [{} for _ in promises]
    with contextlib.ExitStack() as held:
        outgoing = _open_all(promises, proxy, outcomes, held)
        local = {index: _source(sock) for index, sock in outgoing.items()}
        wire = _hold_ports(promises, outcomes, held)
        table = probetable.ProbeTable(tuple(local.values()), tuple(wire.values()))
        # Last in, first out: the sockets go before the table that stops their packets.
        held_sockets = held.pop_all()
        with contextlib.closing(table), held_sockets:
            for index, sock in outgoing.items():
                _connect(sock, promises[index], outcomes[index])
            _send_incoming(promises, wire, outcomes)
            expected = {wire[index] for index in wire if "errno" not in outcomes[index]}
            seen = _wait_until_seen(table, expected)
    for index, source in (local | wire).items():
        if source in seen:
            address, port = seen[source]
            outcomes[index] = {"address": address, "port": port}
    return outcomes


def _source(sock: socket.socket) -> probetable.Source:
    return probetable.Source(sock.family == socket.AF_INET6, sock.getsockname()[1])


def _open_all(
    promises: Sequence[Mapping[str, Any]],
    proxy: tuple[int, int],
    outcomes: list[dict[str, Any]],
    held: contextlib.ExitStack,
) -> dict[int, socket.socket]:
    """Make the sockets of outgoing promises, each by the user and group it speaks of."""
    made: dict[int, socket.socket] = {}
    senders: dict[str, list[int]] = {}
    for index, promise in enumerate(promises):
        senders.setdefault(promise["sender"], []).append(index)
    senders.pop(_NEIGHBOUR, None)
    for sender, indices in senders.items():
        for index in indices:
            try:
                with _acting_as(*_identity(sender, proxy)):
                    made[index] = held.enter_context(_open(promises[index]))
            except OSError as error:
                outcomes[index]["errno"] = error.errno
    return made


def _identity(sender: str, proxy: tuple[int, int]) -> tuple[int, int]:
    """Give uid and gid to act as. The ordinary ones are nobody's, and never the proxy's."""
    uid = _ORDINARY_ID - (proxy[0] == _ORDINARY_ID)
    gid = _ORDINARY_ID - (proxy[1] == _ORDINARY_ID)
    identities = {
        "application": (uid, gid),
        "root": (0, 0),
        "proxy user": (proxy[0], gid),
        "proxy group": (uid, proxy[1]),
    }
    return identities[sender]


@contextlib.contextmanager
def _acting_as(uid: int, gid: int) -> Iterator[None]:
    """Make new sockets belong to this user and group; OSError if that is not permitted."""
    os.setegid(gid)
    try:
        os.seteuid(uid)
        try:
            yield
        finally:
            os.seteuid(0)
    finally:
        os.setegid(0)


def _open(promise: Mapping[str, Any]) -> socket.socket:
    """Bind to a port that nobody else gets as long as the socket is open."""
    is_v6 = ":" in promise["destination"]
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if is_v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((promise["source"], 0))
    except OSError:
        sock.close()
        raise
    return sock


def _connect(sock: socket.socket, promise: Mapping[str, Any], outcome: dict[str, Any]) -> None:
    code = sock.connect_ex((promise["destination"], promise["port"]))
    if code not in (0, errno.EINPROGRESS):
        outcome["errno"] = code


def _hold_ports(
    promises: Sequence[Mapping[str, Any]],
    outcomes: list[dict[str, Any]],
    held: contextlib.ExitStack,
) -> dict[int, probetable.Source]:
    """Give each incoming promise a source port that nobody else has meanwhile."""
    sources: dict[int, probetable.Source] = {}
    for index, promise in enumerate(promises):
        if promise["sender"] != _NEIGHBOUR:
            continue
        try:
            sources[index] = _source(held.enter_context(_open(promise)))
        except OSError as error:
            outcomes[index]["errno"] = error.errno
    return sources


def _send_incoming(
    promises: Sequence[Mapping[str, Any]],
    sources: Mapping[int, probetable.Source],
    outcomes: list[dict[str, Any]],
) -> None:
    """Put packets on `lo` as if a neighbour had sent them: they arrive like any other."""
    if not sources:
        return
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except OSError as error:
        for index in sources:
            outcomes[index]["errno"] = error.errno
        return
    with sock:
        for index, (is_v6, source_port) in sources.items():
            frame = synpacket.build_frame(
                probetable.NEIGHBOUR_V6 if is_v6 else probetable.NEIGHBOUR_V4,
                source_port,
                ipaddress.ip_address(promises[index]["destination"]),
                promises[index]["port"],
            )
            try:
                sock.sendto(frame, ("lo", 0))
            except OSError as error:
                outcomes[index]["errno"] = error.errno


def _wait_until_seen(
    table: probetable.ProbeTable, expected: set[probetable.Source]
) -> dict[probetable.Source, tuple[str, int]]:
    """Read what was recorded; incoming packets may take their time, outgoing ones are done."""
    waited = 0.0
    while True:
        seen = table.read()
        if expected <= seen.keys() or waited > _DEADLINE_S:
            return seen
        select.select((), (), (), _POLL_S)
        waited += _POLL_S


if __name__ == "__main__":
    main()
