"""The program behind servers.py: TCP servers and clients that report in JSON lines.

Run as `python3 -c SOURCE ROLE JSON`, so that a user who cannot read the checkout can run it;
therefore it imports the standard library only and nothing of its own package. What the roles do
and what they print is said in servers.py, which is the one to use.
"""

import contextlib
import errno
import json
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

# linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h: both are 80.
SO_ORIGINAL_DST = 80
LIMIT = 1 << 20
_print_lock = threading.Lock()


def say(**fields: Any) -> None:
    """Print one JSON line; several threads may. With nobody left to read it, that is fine."""
    with _print_lock, contextlib.suppress(BrokenPipeError):
        print(json.dumps(fields), flush=True)


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """Return the address a redirected client wanted, or our own if it was not redirected.

    netfilter rewrites only the destination, so both are the same for a direct connection; without
    connection tracking the option is not there, which means the same.
    """
    try:
        if sock.family == socket.AF_INET:
            raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            port, address = struct.unpack_from("!2xH4s", raw)
            return socket.inet_ntop(socket.AF_INET, address), port
        raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        port, address = struct.unpack_from("!2xH4x16s", raw)
        return socket.inet_ntop(socket.AF_INET6, address), port
    except OSError:
        host, port = sock.getsockname()[:2]
        return str(host), int(port)


def serve(options: dict[str, Any]) -> None:
    """Listen on every address, say so in one line, and serve each connection in a thread."""
    selector = selectors.DefaultSelector()
    listeners = []
    for host, port in options["listen"]:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options["shares_port"]:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ":" in host:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(options["backlog"])
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        listeners.append(listener)
    selector.register(sys.stdin, selectors.EVENT_READ)
    say(event="ready", listen=[listener.getsockname()[:2] for listener in listeners])
    while True:
        # What asked comes first: whatever was in the backlog by then is accepted below.
        is_asked = any(key.fileobj is sys.stdin for key, _ in selector.select())
        if is_asked and not sys.stdin.readline():
            # Our maker left us alone: there is nobody to report to, and we serve on.
            selector.unregister(sys.stdin)
        for listener in listeners:
            accept_all(listener, options)
        if is_asked:
            say(event="counted")


def accept_all(listener: socket.socket, options: dict[str, Any]) -> None:
    """Accept what waits, say so, and serve each connection in a thread."""
    while True:
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return
        say(event="accepted", peer=list(peer[:2]))
        threading.Thread(target=attend, args=(sock, peer, options), daemon=True).start()


def attend(sock: socket.socket, peer: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Serve one connection and say in one line what it was."""
    wanted = original_destination(sock)
    seen: dict[str, Any] = {
        "event": "connection",
        "peer": list(peer[:2]),
        "local": list(sock.getsockname()[:2]),
        "wanted": list(wanted),
    }
    got = bytearray()
    sock.settimeout(options["idle_s"])
    with sock, contextlib.suppress(OSError):
        if options["kind"] == "http":
            answer_http(sock, got, options, peer)
        elif options["kind"] == "original-destination":
            sock.sendall(f"{wanted[0]} {wanted[1]}\n".encode())
        else:
            sock.sendall(options["banner"].encode())
            while len(got) < LIMIT and (data := sock.recv(65536)):
                got += data
                if options["kind"] == "echo":
                    sock.sendall(data)
    say(**seen, received=got.decode("latin-1"))


def answer_http(
    sock: socket.socket, got: bytearray, options: dict[str, Any], peer: tuple[Any, ...]
) -> None:
    """Answer requests with a JSON body: our name, the peer, method, path and headers seen."""
    pending = b""
    while True:
        while b"\r\n\r\n" not in pending:
            data = sock.recv(65536)
            if not data or len(pending) > LIMIT:
                return
            pending += data
            got += data
        head, _, pending = pending.partition(b"\r\n\r\n")
        request, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":")[::2] for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        size = int(headers.get("content-length", "0"))
        while len(pending) < size:
            data = sock.recv(65536)
            if not data:
                return
            pending += data
            got += data
        pending = pending[size:]
        method, path = [*request.split(" "), "", ""][:2]
        body = json.dumps(
            {
                "server": options["name"],
                "peer": list(peer[:2]),
                "method": method,
                "path": path,
                "headers": headers,
            }
        )
        keep = headers.get("connection", "keep-alive").lower() != "close"
        connection = "keep-alive" if keep else "close"
        sock.sendall(
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: {connection}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        if not keep:
            return


def attempt(target: dict[str, Any]) -> dict[str, Any]:
    """Connect, send, read until `until` bytes, a silence or the end; return what happened."""
    began = time.monotonic()
    result: dict[str, Any] = {"outcome": "answered", "received": "", "error": "", "local": None}
    got = bytearray()
    is_connected = False
    try:
        family = socket.AF_INET6 if ":" in target["host"] else socket.AF_INET
        with socket.socket(family) as sock:
            sock.settimeout(target["timeout_s"])
            if target["source"]:
                sock.bind((target["source"], 0))
            sock.connect((target["host"], target["port"]))
            is_connected = True
            result["local"] = list(sock.getsockname()[:2])
            sock.sendall(target["payload"].encode("latin-1"))
            if target["half_close"]:
                sock.shutdown(socket.SHUT_WR)
            while len(got) < target["until"] and (data := sock.recv(65536)):
                got += data
    except TimeoutError as error:
        # Silence after the connection was made is for the caller to judge by what came.
        result.update(outcome="silent" if is_connected else "timeout", error=str(error))
    except OSError as error:
        outcomes = {errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset"}
        result.update(outcome=outcomes.get(error.errno or 0, "error"), error=str(error))
    result["received"] = got.decode("latin-1")
    result["took_s"] = time.monotonic() - began
    return result


def ask(options: dict[str, Any]) -> None:
    """Make each attempt in turn and print its result."""
    for target in options["targets"]:
        say(**attempt(target))


def traffic(options: dict[str, Any]) -> None:
    """Repeat one attempt until SIGTERM, then print the tally: made, failed, first failures."""
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(1))
    made, failures, slowest = 0, [], 0.0
    say(event="ready")
    while not over:
        result = attempt(options["target"])
        made += 1
        slowest = max(slowest, result["took_s"])
        if result["outcome"] != "answered" or options["needle"] not in result["received"]:
            failures.append({"at": time.time(), **result})
        if made == options["announce_at"]:
            say(event="flowing")
        time.sleep(options["interval_s"])
    say(event="tally", made=made, failed=len(failures), failures=failures[:20], slowest_s=slowest)


def roles() -> Iterator[tuple[str, Any]]:
    """Yield the names a command line may give, with what they do."""
    yield "serve", serve
    yield "ask", ask
    yield "traffic", traffic


if __name__ == "__main__":
    dict(roles())[sys.argv[1]](json.loads(sys.argv[2]))
