"""Answer queries for names beside an Envoy without pilot-agent; runs as istio-proxy, for long.

Arguments: the file that has Envoy's node as JSON, the unix socket by which Envoy passes on to
istiod, the port on which to listen, on 127.0.0.1 and, where there is IPv6, on ::1, and the file in
which the names are kept for the next start. Nothing on stdin and stdout; it ends with SIGTERM.
What it parses comes from istiod, from programs of this host, and from its name servers.
"""

import contextlib
import errno
import json
import os
import socket
import sys

from ..host import errorstream, eventpoll, garbage, keptnames, namestream, resolver
from ..names import discovery, table

_INFO = "<6>"
_BACKLOG = 64
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def main() -> None:
    """Serve."""
    garbage.collect_after_all()
    if len(sys.argv) != 6:
        sys.exit("usage: launch.py resolver NODE SOCKET PORT TABLE")
    if os.geteuid() == 0:
        sys.exit("queries are answered by istio-proxy, not by root: start this as that user")
    node_file, path, port = sys.argv[2], sys.argv[3], int(sys.argv[4])
    stream = errorstream.shared()
    prefix = _INFO if "JOURNAL_STREAM" in os.environ else ""

    def say(text: str) -> None:
        stream.write(f"{prefix}{text}\n")

    try:
        with open(node_file, encoding="utf-8") as source:
            node = json.load(source)
        listening = listen(port)
    except OSError as error:
        sys.exit(f"queries cannot be answered: {error.filename or port}: {error.strerror}")
    poll = eventpoll.EventPoll()
    made = resolver.Resolver(poll)
    *_, domain = str(node["id"]).split("~")
    namespace = str(node["metadata"]["NAMESPACE"])

    # Another address, or version, of this host is no other mesh.
    keys = ("CLUSTER_ID", "MESH_ID", "PILOT_SAN")
    whose = " ".join((domain, *(str(node["metadata"].get(key, "")) for key in keys)))
    kept = keptnames.KeptNames(sys.argv[5], whose, poll, say)

    def use(message: bytes, of_whom: str = "") -> None:
        names = table.Table(message, namespace, domain)
        made.take(names)
        say(f"names of the mesh{of_whom}: {len(names)}")

    def take(message: bytes) -> None:
        use(message)
        kept.take(message)

    if (message := kept.read()) is not None:
        with contextlib.suppress(ValueError):  # istiod tells them again
            use(message, ", as they were kept")
    for each in listening:
        made.serve(each)
    namestream.NameStream(poll, path, discovery.render_request(node), take, say)
    garbage.keep_all()
    while True:
        poll.turn()


def listen(port: int) -> list[socket.socket]:
    """Bind UDP and TCP on the loopback addresses of this host; raises OSError without any."""
    made = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            try:
                bound = socket.socket(family, kind)
                if kind == socket.SOCK_STREAM:
                    # Not of UDP: whoever else binds the port so gets what arrives there.
                    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    bound.listen(_BACKLOG)
            except OSError as error:
                if family == socket.AF_INET or error.errno not in _NO_IPV6:
                    raise
                continue
            made.append(bound)
    return made


if __name__ == "__main__":
    main()
