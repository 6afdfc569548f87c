"""New connections at a rate, each with a handshake of its own, over renewals and another root.

From files and from the secret server. A sample runs with everything else; `make soak` goes over a
hundred renewals, and says at which rate: on a busy machine there are fewer connections.
"""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.lab import secretserver, soak

from . import authority, network, proxy
from .test_secret_server import serials
from .test_traffic import PORT

pytestmark = [pytest.mark.envoy, pytest.mark.soak]

PYTHON = "/usr/bin/python3"
RATE = 500
RENEWALS = soak.times(4, 100)
# Handshakes between two renewals.
BETWEEN = 100
SETTINGS = proxy.SETTINGS._replace(has_access_log=False)
# Arguments: address, port, how many a second. Until its standard input ends.
_CLIENT = """
import json, os, selectors, socket, struct, sys, time
address, port, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
reset = struct.pack("ii", 1, 0)  # closed with a reset: no port stays behind
found, made, failures, is_over = selectors.DefaultSelector(), 0, [], False
found.register(sys.stdin, selectors.EVENT_READ)
under_way = {}
began = time.monotonic()
while not is_over or under_way:
    now = time.monotonic()
    while not is_over and made < (now - began) * rate and len(under_way) < 24:
        made += 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        sock.connect_ex((address, port))
        under_way[sock] = now
        found.register(sock, selectors.EVENT_WRITE)
    for key, events in found.select(0.002):
        sock = key.fileobj
        if sock is sys.stdin:
            is_over = True
            found.unregister(sys.stdin)
            continue
        problem = ""
        try:
            if events & selectors.EVENT_WRITE:
                sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                found.modify(sock, selectors.EVENT_READ)
                continue
            data = sock.recv(4096)
            if b" 200 " not in data:
                problem = f"answered {data[:40]!r}"
        except OSError as error:
            problem = repr(error)
        if problem:
            took_s, at_s = time.monotonic() - under_way[sock], under_way[sock] - began
            failures.append(f"at {at_s:.3f} s, after {took_s:.3f} s: {problem}")
        found.unregister(sock)
        sock.close()
        del under_way[sock]
    for sock in [each for each, at in under_way.items() if now > at + 60]:
        failures.append("no answer in 60 s")
        found.unregister(sock)
        sock.close()
        del under_way[sock]
seconds = time.monotonic() - began
print(json.dumps({"made": made, "failures": failures[:20], "seconds": seconds}))
"""
_SERVER = f"""
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        if self.request.recv(4096):
            self.request.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nwell")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 1024
with Server(("0.0.0.0", {PORT}), Handler) as server:
    print("begun", flush=True)
    server.serve_forever()
"""


def handshakes(host: proxy.Proxy) -> int:
    """How many its Envoy has finished as a server."""
    text = host.ask("/stats?filter=^listener.*ssl.handshake$")
    return sum(int(each) for each in re.findall(r": (\d+)$", text, re.MULTILINE))


def refusals(host: proxy.Proxy) -> int:
    """How many certificates its Envoy has not taken."""
    text = host.ask("/stats?filter=^listener.*ssl.fail_verify_error$")
    return sum(int(each) for each in re.findall(r": (\d+)$", text, re.MULTILINE))


def wait_for_more(host: proxy.Proxy, number: int) -> None:
    before = handshakes(host)
    proxy.wait_until(lambda: handshakes(host) >= before + number, "more handshakes", 60)


@contextlib.contextmanager
def process(host: network.Host, *words: str) -> Iterator["subprocess.Popen[str]"]:
    argv = ["ip", "netns", "exec", host.name, PYTHON, "-c", *words]
    pipes = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipes, stdout=pipes, text=True) as made:
        try:
            yield made
        finally:
            made.kill()


@contextlib.contextmanager
def traffic(a: proxy.Proxy, b: proxy.Proxy) -> Iterator[dict[str, object]]:
    """Connections of host a to host b; afterwards it is known what became of them."""
    for host in (a.host, b.host):
        # Ports are free again sooner than that many connections need them.
        host.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")
        host.run("sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")
    told: dict[str, object] = {}
    with process(b.host, _SERVER) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "begun\n"
        with process(a.host, _CLIENT, b.host.v4, str(PORT), str(RATE)) as client:
            assert client.stdin is not None and client.stdout is not None
            yield told
            client.stdin.close()
            told |= json.loads(client.stdout.readline())


def install(host: proxy.Proxy, issuer: authority.Authority, roots: Sequence[bytes]) -> None:
    """Give it another certificate; returns when its Envoy shows that one."""
    before = serials(host)
    files = issuer.issue(host.spiffe_id) | {"root-cert.pem": b"".join(roots)}
    authority.install(files, host.output_dir, proxy.PROXY_UID)
    proxy.wait_until(lambda: not serials(host) & before, "the new certificate is in use")


@pytest.fixture(params=["files", "secret server"])
def started(request: pytest.FixtureRequest, mesh_of: Callable[[bool], None]) -> str:
    """Both hosts in the mesh, with secrets from there."""
    mesh_of(request.param != "files")
    return str(request.param)


@pytest.fixture
def mesh_of(a: proxy.Proxy, b: proxy.Proxy) -> Iterator[Callable[[bool], None]]:
    with contextlib.ExitStack() as stack:

        def start(has_server: bool) -> None:
            for host in (a, b):
                host.rotate()
                settings = SETTINGS
                if has_server:
                    server = secretserver.SecretServer(
                        host.output_dir, host.secret_socket, proxy.PROXY_UID
                    )
                    stack.callback(server.kill)
                    settings = host.with_server(SETTINGS)
                host.start(settings)

        yield start


def test_renewals_and_another_root_fail_no_handshake(
    a: proxy.Proxy,
    b: proxy.Proxy,
    ca: authority.Authority,
    started: str,
    record_property: Callable[[str, object], None],
) -> None:
    successor = authority.Authority("successor")
    old, new = (each.issue("spiffe://x/")["root-cert.pem"] for each in (ca, successor))
    pids, before = (a.pid, b.pid), handshakes(b)
    began = time.monotonic()
    with traffic(a, b) as told:
        wait_for_more(b, BETWEEN)
        for number in range(RENEWALS):
            install((a, b)[number % 2], ca, (old,))
            wait_for_more(b, BETWEEN)
        for issuer, roots in ((ca, (old, new)), (successor, (old, new)), (successor, (new,))):
            for host in (a, b):
                install(host, issuer, roots)
                wait_for_more(b, BETWEEN)
        count, seconds = handshakes(b) - before, time.monotonic() - began
    record_property(
        soak.FIGURE,
        f"{started}: {count} handshakes, {count / seconds:.0f} a second, {RENEWALS} renewals and"
        f" another root: failed {told['failures'] or 0}",
    )
    assert told["failures"] == [], told
    assert (a.pid, b.pid) == pids
    # The old root is worth nothing any more.
    assert refusals(b) == 0
    install(a, ca, (old, new))
    with traffic(a, b):
        proxy.wait_until(lambda: refusals(b) >= BETWEEN, "its certificates are refused")
