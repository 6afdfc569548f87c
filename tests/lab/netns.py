"""Network namespaces as small hosts: made, linked, used and always taken away again.

    with Namespace("a") as a, Namespace("b") as b:
        link(a, b, "10.9.0.1/24", "10.9.0.2/24")
        a.run(["ping", "-c1", "10.9.0.2"])

    with Network("cluster", "10.9.0.1/24") as cluster, Namespace("a") as a:
        cluster.join(a, "10.9.0.2/24")

Nothing is ever changed in the machine's own namespace: a pair of interfaces is born inside the
two namespaces it joins. Names are `hatest-PID-RANDOM-LABEL`; what a killed test left behind is
removed by the next one (sweep). Leaving a Namespace ends every process started in it, by number:
first SIGTERM, then SIGKILL, its descendants included.

Processes see /etc/netns/NAME/ instead of /etc (see ip-netns(8)), which is how `write_hosts` gives
one namespace its own names. Needs root, iproute2, util-linux. By hand, for what the demo kept:

    python -m tests.lab.netns remove NAME...
"""

import ctypes
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

PREFIX = "hatest"
# The lock of xtables is one for all network namespaces. For `sh -c OWN_LOCK FILE PROGRAM...` in a
# mount namespace of its own it is another one, that file.
OWN_LOCK = 'touch /run/xtables.lock && mount --bind "$0" /run/xtables.lock && exec "$@"'
ETC = Path("/etc/netns")
RUN = Path("/run/netns")
# Debian's own interpreter, which sees Debian's packages and which every user may run.
PYTHON = "/usr/bin/python3"
END_LIMIT_S = 5.0
_CLONE_NEWNET = 0x40000000
_MINE = re.compile(rf"{PREFIX}-(\d+)-[0-9a-f]{{6}}-.*")

T = TypeVar("T")


class LabError(Exception):
    """A command that builds the laboratory failed; the text holds what it said."""


class Namespace:
    """One network namespace, with lo up and the processes started in it. A context manager.

    `prefix`: another one than the default keeps the namespace from being swept when its maker is
    gone; the demo uses that to leave it running.
    """

    def __init__(self, label: str, *, prefix: str = PREFIX) -> None:
        self.label = label
        self.name = f"{prefix}-{os.getpid()}-{secrets.token_hex(3)}-{label}"
        self._processes: list[subprocess.Popen[str]] = []
        self._is_kept = False

    def __enter__(self) -> "Namespace":
        sweep()
        _ip("netns", "add", self.name)
        try:
            # Addresses are usable at once, without the second of duplicate address detection.
            if Path("/proc/sys/net/ipv6").is_dir():
                self.sysctl("net.ipv6.conf.default.accept_dad", "0")
            self.ip("link", "set", "lo", "up")
        except BaseException:
            remove(self.name)
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        if not self._is_kept:
            self.close()

    @property
    def path(self) -> Path:
        """The file that stands for the namespace (for setns(2), nsenter, systemd-nspawn)."""
        return RUN / self.name

    @property
    def inode(self) -> int:
        """The number of the namespace, as in /proc/PID/ns/net."""
        return self.path.stat().st_ino

    def close(self) -> None:
        """End all processes in it and delete it; calling it twice is fine."""
        end(self._processes)
        remove(self.name)

    def keep(self) -> None:
        """Leave it and its processes alone at the end; `remove(name)` takes them away."""
        self._is_kept = True

    def argv(self, argv: Sequence[str], user: str | int | None = None) -> list[str]:
        """Return the command line that runs `argv` in here; each step becomes the next, no fork.

        `user`: a name (with its groups) or a number, used as group as well; None stays root.
        """
        inside = ["ip", "netns", "exec", self.name]
        if isinstance(user, int):
            inside += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        elif user is not None:
            gid = pwd.getpwnam(user).pw_gid
            inside += ["setpriv", f"--reuid={user}", f"--regid={gid}", "--init-groups"]
        return [*inside, *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str | int | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 90.0,
        stdin: str = "",
        cwd: Path | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in here and return status and output as text.

        `env` is added to this process's environment. Raises subprocess.TimeoutExpired (the process
        is killed) and with `check` LabError naming command, status and output.
        """
        done = subprocess.run(
            self.argv(argv, user),
            input=stdin,
            env={**os.environ, **(env or {})},
            timeout=timeout,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            said = (done.stdout + done.stderr).strip()
            raise LabError(f"{' '.join(argv)} in {self.label}: status {done.returncode}: {said}")
        return done

    def popen(
        self,
        argv: Sequence[str],
        *,
        user: str | int | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.DEVNULL,
        stderr: int | IO[str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start `argv` in here; its pid is that of the program itself. Ended on close.

        It leads a process group of its own, so Ctrl-C at the terminal reaches the maker alone,
        which then takes everything down in order.
        """
        process = subprocess.Popen(
            self.argv(argv, user),
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            text=True,
            process_group=0,
        )
        self._processes.append(process)
        return process

    def python(
        self,
        code: str,
        *arguments: str,
        user: str | int | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> str:
        """Run Python source in here and return its standard output. Raises LabError."""
        argv = [PYTHON, "-c", code, *arguments]
        return self.run(argv, user=user, env=env, timeout=timeout, check=True).stdout

    def inside(self, call: Callable[[], T]) -> T:
        """Return `call()`, made by a thread of this process that has entered the namespace.

        For sockets: one made in here belongs to the namespace whoever uses it later. Only network
        is entered; /etc is the machine's own.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                _enter(self.path)
                results.append(call())
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def bind(self, host: str, port: int, *, uid: int = 0) -> socket.socket:
        """Return a TCP socket of this namespace, bound and not yet listening.

        It is that of user `uid`, whoever answers on it: rules look at who made it. Of one family.
        """

        def make() -> socket.socket:
            # Of this thread alone (setfsuid(2)), which ends with the call.
            ctypes.CDLL(None).setfsuid(uid)
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((host, port))
            except OSError:
                sock.close()
                raise
            return sock

        return self.inside(make)

    def connect(self, host: str, port: int, *, timeout_s: float = 20.0) -> socket.socket:
        """Return a TCP connection made from in here, as root. Raises OSError."""
        return self.inside(lambda: socket.create_connection((host, port), timeout_s))

    def ip(self, *arguments: str) -> str:
        """Run `ip` on this namespace and return what it prints. Raises LabError."""
        return _ip("-n", self.name, *arguments)

    def add_address(self, interface: str, address: str) -> None:
        """Give an interface an address with prefix length, IPv4 or IPv6, usable at once."""
        extra = ["nodad"] if ":" in address else []
        self.ip("address", "add", address, "dev", interface, *extra)

    def sysctl(self, key: str, value: str) -> None:
        """Set a network sysctl of this namespace. Raises OSError."""
        path = Path("/proc/sys") / key.replace(".", "/")
        self.inside(lambda: path.write_text(value))

    def write_hosts(self, names: Mapping[str, str]) -> None:
        """Give processes started in here their own /etc/hosts: `names` maps name to address.

        Written in place, so processes that run already see later changes, too, if it was there
        when they were started.
        """
        directory = ETC / self.name
        directory.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{address} {name}" for name, address in names.items()]
        (directory / "hosts").write_text("\n".join(lines) + "\n")

    def write_name_servers(self, *addresses: str) -> None:
        """Give processes started in here their own /etc/resolv.conf, in place as `write_hosts`."""
        directory = ETC / self.name
        directory.mkdir(parents=True, exist_ok=True)
        lines = [f"nameserver {address}" for address in addresses]
        (directory / "resolv.conf").write_text("\n".join(lines) + "\n")

    def pids(self) -> list[int]:
        """Return the processes whose network is this one."""
        return pids_in(self.name)


class Network(Namespace):
    """A namespace with a bridge: the network between hosts, or a cluster with an address on it."""

    BRIDGE = "br0"

    def __init__(self, label: str, *addresses: str, prefix: str = PREFIX) -> None:
        """`addresses`, with prefix length, go onto the bridge: servers in here listen on them."""
        super().__init__(label, prefix=prefix)
        self._addresses = addresses
        self._ports = 0

    def __enter__(self) -> "Network":
        super().__enter__()
        try:
            self.ip("link", "add", self.BRIDGE, "type", "bridge")
            self.ip("link", "set", self.BRIDGE, "up")
            for address in self._addresses:
                self.add_address(self.BRIDGE, address)
        except BaseException:
            self.close()
            raise
        return self

    def join(self, host: Namespace, *addresses: str, interface: str = "eth0") -> str:
        """Plug `host` in with an interface of these addresses; return our end's name (port0...).

        Capture on our end to see what is on the wire.
        """
        port = f"port{self._ports}"
        self._ports += 1
        pair(self, host, port, interface)
        self.ip("link", "set", port, "master", self.BRIDGE)
        for address in addresses:
            host.add_address(interface, address)
        return port


class Foreign(Network):
    """A network that somebody else has made, by its name, and takes away; BRIDGE is in it.

    Leaving it ends what was started in it by this object, and nothing else.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __enter__(self) -> "Foreign":
        return self

    def close(self) -> None:
        """End what was started here."""
        end(self._processes)


def pair(a: Namespace, b: Namespace, a_interface: str, b_interface: str) -> None:
    """Join two namespaces by a pair of interfaces, both up, without addresses."""
    peer = ["peer", "name", b_interface, "netns", b.name]
    _ip("link", "add", a_interface, "netns", a.name, "type", "veth", *peer)
    for namespace, interface in ((a, a_interface), (b, b_interface)):
        namespace.ip("link", "set", interface, "up")


def link(
    a: Namespace,
    b: Namespace,
    a_addresses: str | Sequence[str],
    b_addresses: str | Sequence[str],
    *,
    a_interface: str = "eth0",
    b_interface: str = "eth0",
) -> None:
    """Join two namespaces by a cable, with addresses (prefix length included) at both ends."""
    pair(a, b, a_interface, b_interface)
    for namespace, interface, addresses in (
        (a, a_interface, a_addresses),
        (b, b_interface, b_addresses),
    ):
        for address in [addresses] if isinstance(addresses, str) else addresses:
            namespace.add_address(interface, address)


def end(processes: Sequence[subprocess.Popen[str]], *, limit_s: float = END_LIMIT_S) -> None:
    """End processes we started: SIGTERM to all, then SIGKILL to what is left after `limit_s`."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + limit_s
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for process in processes:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def remove(name: str) -> None:
    """Delete a namespace with all processes in it and its /etc/netns directory, if there."""
    if (RUN / name).exists():
        for sign in (signal.SIGTERM, signal.SIGKILL):
            _signal_all(name, sign)
        # Interfaces go first: the namespace itself is torn down later, in the background.
        for interface in _interfaces(name):
            _try_ip("-n", name, "link", "delete", interface)
        _try_ip("netns", "delete", name)
    shutil.rmtree(ETC / name, ignore_errors=True)


def sweep() -> None:
    """Remove what test processes that are gone left behind, told by the pid in the name."""
    names = {path.name for where in (RUN, ETC) if where.is_dir() for path in where.iterdir()}
    for name in names:
        found = _MINE.fullmatch(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            remove(name)


def pids_in(name: str) -> list[int]:
    """Return the processes whose network namespace is `name`; none if there is none."""
    return [int(word) for word in _try_ip("netns", "pids", name).stdout.split()]


def missing() -> str:
    """Return why namespaces cannot be used here, "" if they can: for tests to skip or fail."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("ip", "setpriv"):
        if shutil.which(tool) is None:
            return f"needs the program {tool}"
    try:
        with Namespace("probe"):
            return ""
    except (LabError, OSError) as error:
        return f"no network namespaces: {error}"


def main(arguments: Sequence[str]) -> int:
    """`remove NAME...`: take away what was kept."""
    if len(arguments) < 2 or arguments[0] != "remove":
        print("usage: python -m tests.lab.netns remove NAME...", file=sys.stderr)
        return 2
    for name in arguments[1:]:
        if not re.fullmatch(r"[a-z]+-\d+-[0-9a-f]{6}-.+", name):
            print(f"{name}: no namespace of ours", file=sys.stderr)
            return 2
        remove(name)
    return 0


def _signal_all(name: str, sign: signal.Signals) -> None:
    """Signal all processes of the namespace and wait, with a deadline, until none is left."""
    if not (left := pids_in(name)):
        return
    for pid in left:
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + END_LIMIT_S / 2
    while pids_in(name) and time.monotonic() < deadline:
        # No event tells of the end of processes that are not our children.
        time.sleep(0.02)


def _interfaces(name: str) -> list[str]:
    done = _try_ip("-n", name, "-o", "link", "show")
    names = [line.split(":")[1].strip() for line in done.stdout.splitlines()]
    return [each.partition("@")[0] for each in names if each != "lo"]


def _ip(*arguments: str) -> str:
    done = _try_ip(*arguments)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _try_ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def _enter(path: Path) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
