"""Make the sockets that probe packets are sent from, each by the user and group it stands for.

In: {"proxy_uid", "proxy_gid", "groups": [{"sender", "is_v6", "is_raw", "is_datagram", "uid",
"gid", "count"}, ...]}; a uid or gid below 0 is the usual one of the sender.
Out: {"errnos": [...]}, one for each group in order, one for the packet socket and one for the
device: 0, or why it could not be made. What was made is handed over through the inherited socket,
in the same order (unix(7), SCM_RIGHTS): a socket keeps the credentials it was made with, and
those are what `meta skuid` and `meta skgid` compare (nft_meta_get_eval_skugid()), whoever sends.

Not here: sending (`host.probing`). The sockets are neither bound nor connected. Raw ones are of
protocol IPPROTO_RAW: they send packets with their IP header, and hear nothing (raw(7)).
"""

import contextlib
import ctypes
import errno
import io
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import HostAgentError
from ..host import handover, probedevice, users

_ORDINARY_ID = 65534  # nobody


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    proxy = request["proxy_uid"], request["proxy_gid"]
    made: list[socket.socket | io.FileIO] = []
    errnos = [_make(group, proxy, made) for group in request["groups"]]
    try:
        # Bound to no protocol: it hears nothing, and sends where it is told (packet(7)).
        made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        errnos.append(0)
    except OSError as error:
        errnos.append(error.errno or 0)
    try:
        made.append(probedevice.make())
        errnos.append(0)
    except (OSError, HostAgentError) as error:
        errnos.append(getattr(error, "errno", 0) or errno.EIO)
    handover.give(made)
    json.dump({"errnos": errnos}, sys.stdout)


def _make(
    group: Mapping[str, Any], proxy: tuple[int, int], made: list[socket.socket | io.FileIO]
) -> int:
    """Add the sockets of one group, all or none; gives 0, or the number of the error."""
    family = socket.AF_INET6 if group["is_v6"] else socket.AF_INET
    is_raw = group["is_raw"]
    kind, protocol = (socket.SOCK_RAW, socket.IPPROTO_RAW) if is_raw else (socket.SOCK_STREAM, 0)
    if group["is_datagram"]:
        kind = socket.SOCK_DGRAM
    acting_as = _owning_as if is_raw else users.acting_as
    sockets: list[socket.socket] = []
    try:
        uid, gid = _identity(group["sender"], proxy)
        uid = group["uid"] if group["uid"] >= 0 else uid
        gid = group["gid"] if group["gid"] >= 0 else gid
        with acting_as(uid, gid):
            for _ in range(group["count"]):
                sockets.append(socket.socket(family, kind, protocol))
                if group["is_v6"] and not is_raw:
                    sockets[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except OSError as error:
        return error.errno or 0
    made += sockets
    return 0


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
def _owning_as(uid: int, gid: int) -> Iterator[None]:
    """As `users.acting_as`, but with root's rights, without which there are no raw sockets.

    Only those to files are lost. setfsuid(2) says what was before, and whether it was obeyed only
    if it is asked once more.
    """
    library = ctypes.CDLL(None)
    try:
        library.setfsgid(gid)
        library.setfsuid(uid)
        if (library.setfsuid(-1), library.setfsgid(-1)) != (uid, gid):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        yield
    finally:
        library.setfsuid(0)
        library.setfsgid(0)


if __name__ == "__main__":
    main()
