"""Two network namespaces with a link between them, and sockets inside them.

Sockets are made inside a namespace by the calling thread and can then be used from anywhere.
"""

import contextlib
import ctypes
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Host:
    """One namespace. `v4` and `v6` are its addresses on the link `device`."""

    def __init__(self, letter: str, number: int) -> None:
        self.name = f"hae{os.getpid()}-{next(_numbers)}{letter}"
        self.device = f"{letter}0"
        self.v4, self.v6 = f"10.99.7.{number}", f"fd99:7::{number}"
        _ip("netns", "add", self.name)
        for setting in ("ipv6.conf.all.accept_dad=0", "ipv6.conf.default.accept_dad=0"):
            self.run("sysctl", "-qw", f"net.{setting}")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", "::6/128", "dev", "lo")

    def run(self, *argv: str, stdin: str | None = None) -> str:
        command = ["ip", "netns", "exec", self.name, *argv]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def configure(self) -> None:
        self.run("ip", "addr", "add", f"{self.v4}/24", "dev", self.device)
        self.run("ip", "addr", "add", f"{self.v6}/64", "dev", self.device, "nodad")
        self.run("ip", "link", "set", self.device, "up")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Run the block in this namespace, in this thread only."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(home)
            os.close(home)
            os.close(there)

    def connect(self, address: str, port: int, uid: int = 0) -> socket.socket:
        """Connect as a user: the rules look at the one who made the socket."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside():
            _libc.setfsuid(uid)
            try:
                client = socket.socket(family)
            finally:
                _libc.setfsuid(0)
        client.settimeout(20)
        try:
            client.connect((address, port))
        except OSError:
            client.close()
            raise
        return client

    def listen(self, port: int, address: str = "::") -> socket.socket:
        is_v6 = ":" in address
        with self.inside():
            listener = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET)
        if is_v6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
        return listener

    def delete(self) -> None:
        _ip("netns", "del", self.name)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts with one link."""
    with contextlib.ExitStack() as stack:
        hosts = []
        for letter, number in (("a", 1), ("b", 2)):
            host = Host(letter, number)
            stack.callback(host.delete)
            hosts.append(host)
        a, b = hosts
        a.run("ip", "link", "add", "a0", "type", "veth", "peer", "name", "b0", "netns", b.name)
        a.configure()
        b.configure()
        yield a, b


class Capture:
    """Everything that passes a host's link, as one string of bytes."""

    def __init__(self, host: Host) -> None:
        with host.inside():
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)
            )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((host.device, 0))

    def data(self) -> bytes:
        """What was seen since the last call; a packet sent before the call is in it."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(self._socket.recv(65536, socket.MSG_DONTWAIT))
        return b"".join(frames)

    def close(self) -> None:
        self._socket.close()


class Server:
    """Calls `answer(connection, peer address)` in a thread for each connection; counts them."""

    def __init__(
        self,
        host: Host,
        port: int,
        answer: Callable[[socket.socket, str], None],
        *,
        address: str = "::",
    ) -> None:
        self.connections = 0
        self._answer = answer
        self._listener = host.listen(port, address)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            arguments = (connection, str(address[0]))
            threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def _serve(self, connection: socket.socket, address: str) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(120)
            self._answer(connection, address)

    def close(self) -> None:
        # Closing alone does not wake a thread that is in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()


def receive(connection: socket.socket, until: bytes = b"") -> bytes:
    """Read to the end of the stream, or until the bytes were seen."""
    data = b""
    while not (until and until in data):
        chunk = connection.recv(65536)
        if not chunk:
            break
        data += chunk
    return data


def load_rules(host: Host, lines: Sequence[str]) -> None:
    host.run("nft", "-f", "-", stdin="\n".join(lines))
