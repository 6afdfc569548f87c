"""The program behind world.py: every server of a small world, and every client, one by one.

Run as `python3 -I -S station.py` by root. It reads JSON lines from its standard input: first makes
the servers that it names, then takes one packet a line, sends it and prints what became of it: one
JSON line for each. Servers and clients are real: sockets of the namespace and of the user
that the object names. The standard library only, nothing of its own package.

A server answers with one line that says who it is and what it saw. A client is a process of its
own, which enters the namespace and becomes the user before it makes its socket.
"""

import errno
import json
import os
import selectors
import socket
import struct
import sys
from ctypes import CDLL
from typing import Any

LIBC = CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
# linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h: both are 80.
SO_ORIGINAL_DST = 80
# linux/in.h and linux/in6.h
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
# What a client waits for at most. Everything is on this machine: only what is dropped takes as long,
# and no packet of the table is expected to be.
LIMIT_S = 20.0
ICMP_ECHO, ICMP_ECHO_REPLY = 8, 0
ICMPV6_ECHO, ICMPV6_ECHO_REPLY = 128, 129
SYN = 0x02


def enter(namespace: str) -> None:
    """Make what comes belong to a network namespace. Raises OSError."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(f"setns: {namespace}")
    os.close(descriptor)


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def be_transparent(sock: socket.socket) -> None:
    """Let it have addresses that are not of this host. Raises OSError."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)


def listen(server: dict[str, Any]) -> socket.socket:
    """Make one listening socket as the user that it names. Raises OSError."""
    enter(server["namespace"])
    LIBC.setfsgid(server["gid"])
    LIBC.setfsuid(server["uid"])
    kind = socket.SOCK_STREAM if server["protocol"] == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family_of(server["host"]), kind)
    LIBC.setfsuid(0)
    LIBC.setfsgid(0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if server["is_transparent"]:
        be_transparent(sock)
    scope = socket.if_nametoindex(server["scope"]) if server["scope"] else 0
    sock.bind(pair(server["host"], server["port"], scope))
    if kind == socket.SOCK_STREAM:
        sock.listen(64)
    sock.setblocking(False)
    return sock


def pair(host: str, port: int, scope: int = 0) -> tuple[Any, ...]:
    return (host, port, 0, scope) if ":" in host else (host, port)


def wanted_by(sock: socket.socket) -> list[Any]:
    """What a redirected client wanted; our own address if it was not redirected."""
    try:
        if sock.family == socket.AF_INET:
            raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            port, address = struct.unpack_from("!2xH4s", raw)
        else:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            port, address = struct.unpack_from("!2xH4x16s", raw)
        return [socket.inet_ntop(sock.family, address), port]
    except OSError:
        return list(sock.getsockname()[:2])


def answer(listener: socket.socket, server: dict[str, Any]) -> None:
    """Tell whoever asked who we are."""
    word: dict[str, Any] = {"server": server["name"]}
    if listener.type == socket.SOCK_DGRAM:
        _, peer = listener.recvfrom(100)
        listener.sendto(json.dumps({**word, "peer": peer[:2]}).encode(), peer)
        return
    sock, peer = listener.accept()
    with sock:
        word |= {"peer": peer[:2], "wanted": wanted_by(sock)}
        sock.sendall(json.dumps(word).encode())


def join(group: str) -> None:
    """Be in a control group: what comes is made there. Raises OSError."""
    with open(f"{group}/cgroup.procs", "w") as processes:
        processes.write("0")


def become(client: dict[str, Any]) -> None:
    """Give all privilege up and be the user of the packet."""
    os.setgroups(client["groups"])
    os.setresgid(*[client["gid"]] * 3)
    os.setresuid(*[client["uid"]] * 3)


def connect(packet: dict[str, Any]) -> dict[str, Any]:
    """Make a socket, ask, and return what was said or how it failed."""
    is_tcp = packet["protocol"] == "tcp"
    if packet["is_transparent"]:
        # The proxy keeps CAP_NET_ADMIN: only what the socket is made as can be told by rules.
        LIBC.setfsgid(packet["client"]["gid"])
        LIBC.setfsuid(packet["client"]["uid"])
    else:
        become(packet["client"])
    kind = socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM
    with socket.socket(family_of(packet["host"]), kind) as sock:
        sock.settimeout(LIMIT_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if packet["is_transparent"]:
            be_transparent(sock)
        if packet["mark"]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet["mark"])
        if packet["source"] or packet["source_port"]:
            wildcard = "::" if ":" in packet["host"] else "0.0.0.0"
            sock.bind((packet["source"] or wildcard, packet["source_port"]))
        scope = socket.if_nametoindex(packet["scope"]) if packet["scope"] else 0
        sock.connect(pair(packet["host"], packet["port"], scope))
        if not is_tcp:
            sock.send(b"?")
        # A datagram counts only if it comes from where it was asked.
        said = sock.recv(1000)
        if not said:
            return {"outcome": "closed"}
        return {"outcome": "answered", "own": sock.getsockname()[:2], **json.loads(said)}


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def tcp_segment(source: str, host: str, port: int, flags: int) -> bytes:
    """A segment without content, from port 9, with our process as its sequence number."""
    family = family_of(host)
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, host)
    header = struct.pack("!HHIIBBHHH", 9, port, os.getpid(), 0, 5 << 4, flags, 1024, 0, 0)
    pseudo = ends + struct.pack("!II", len(header), socket.IPPROTO_TCP)
    return header[:16] + struct.pack("!H", checksum(pseudo + header)) + header[18:]


def echo(host: str, is_reply: bool) -> bytes:
    """An ICMP echo request or reply with our process as its number."""
    if ":" in host:
        # The kernel computes the checksum of ICMPv6.
        kind = ICMPV6_ECHO_REPLY if is_reply else ICMPV6_ECHO
        return struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, 1)
    kind = ICMP_ECHO_REPLY if is_reply else ICMP_ECHO
    bare = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, 1)
    return bare[:2] + struct.pack("!H", checksum(bare)) + bare[4:]


def send_invalid(packet: dict[str, Any]) -> dict[str, Any]:
    """Send what connection tracking calls invalid, then what it does not: did the first arrive?

    Both arrive in this order, so nothing is waited for that does not come.
    """
    host, source, port = packet["host"], packet["source"], packet["port"]
    family = family_of(host)
    if packet["protocol"] == "invalid tcp":
        protocol = socket.IPPROTO_TCP
        invalid, valid = (tcp_segment(source, host, port, flags) for flags in (0, SYN))
    else:
        protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        invalid, valid = echo(host, is_reply=True), echo(host, is_reply=False)
    enter(packet["to"])
    receiver = socket.socket(family, socket.SOCK_RAW, protocol)
    receiver.settimeout(LIMIT_S)
    enter(packet["namespace"])
    sender = socket.socket(family, socket.SOCK_RAW, protocol)
    sender.bind((source, 0))
    for each in (invalid, valid):
        sender.sendto(each, (host, 0))
    while True:
        got, (peer, *_) = receiver.recvfrom(2000)
        got = got[(got[0] & 0xF) * 4 :] if family == socket.AF_INET else got
        if peer != source:
            continue
        # The sequence number, or ours and the first: neither is changed by capture.
        is_tcp = protocol == socket.IPPROTO_TCP
        of_packet, kind = slice(4, 8), 13 if is_tcp else 0
        if got[of_packet] == valid[of_packet] and got[kind] in (valid[kind], invalid[kind]):
            return {"outcome": "dropped" if got[kind] == valid[kind] else "delivered"}


def attempt(packet: dict[str, Any]) -> dict[str, Any]:
    """Send one packet and say what became of it."""
    try:
        if packet["protocol"].startswith("invalid"):
            return send_invalid(packet)
        if packet["unit"]:
            join(packet["unit"])
        enter(packet["namespace"])
        return connect(packet)
    except TimeoutError:
        return {"outcome": "nothing"}
    except ConnectionRefusedError:
        return {"outcome": "refused"}
    except ConnectionResetError:
        return {"outcome": "reset"}
    except OSError as error:
        return {"outcome": errno.errorcode.get(error.errno or 0, str(error))}


def send(packet: dict[str, Any], selector: selectors.BaseSelector) -> bytes:
    """Send one packet from a process of its own, and serve until it has said what happened."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, json.dumps(attempt(packet)).encode())
        os._exit(0)
    os.close(writer)
    selector.register(reader, selectors.EVENT_READ)
    said = b""
    while not said:
        for key, _ in selector.select():
            if key.fileobj == reader:
                said = os.read(reader, 65536) or b'{"outcome": "the client failed"}'
            else:
                try:
                    answer(key.fileobj, key.data)  # type: ignore[arg-type] # a socket
                except OSError:
                    continue  # The client has given up.
    selector.unregister(reader)
    os.close(reader)
    os.waitpid(pid, 0)
    return said


def main() -> None:
    """Serve, send, and end."""
    world = json.loads(sys.stdin.readline())
    selector = selectors.DefaultSelector()
    for server in world["servers"]:
        selector.register(listen(server), selectors.EVENT_READ, server)
    for line in sys.stdin:
        print(send(json.loads(line), selector).decode(), flush=True)


if __name__ == "__main__":
    main()
