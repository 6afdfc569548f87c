"""The network that test machines live in: one namespace with a bridge, and servers inside it.

A cluster's name is unique to this process, and everything it makes carries that name as a prefix
(namespaces, control groups, its directory), so that parallel runs do not meet, and what a killed
run left behind is recognised and removed by the next one. The machine's own namespace is never
changed.
"""

import contextlib
import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.package import overlay

ADDRESS = "10.200.0.1"
PREFIX_LENGTH = 16
_letters = itertools.cycle("abcdefghijklmnopqrstuvwxyz")


class Timeout(Exception):
    """Something did not happen before its deadline; the text says what was seen instead."""


def wait_until(condition: Callable[[], bool], what: str, within_s: float = 90) -> None:
    """Return as soon as `condition` holds; raise Timeout naming `what` if it never does."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise Timeout(f"not within {within_s} s: {what}")
        time.sleep(0.02)


def control_groups() -> list[Path]:
    """Return the mount points of the hierarchies that systemd uses (version 2, name=systemd)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        words = kind.split()
        if words[0] == "cgroup2" or (words[0] == "cgroup" and "name=systemd" in words[2]):
            found.append(Path(place.split()[4]))
    return found


def remove_control_group(group: Path) -> None:
    """Remove a control group and those below it, once their last processes are gone."""

    def is_removed() -> bool:
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        return not group.exists()

    wait_until(is_removed, f"{group} is empty", within_s=60)


def kill_control_group(group: Path) -> None:
    """Kill what is left in a control group and those below it.

    A machine that is just ending removes its groups while they are looked at.
    """
    for directory, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            for pid in Path(directory, "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def ip(*arguments: str, check: bool = True) -> None:
    """Run ip(8); without `check` a refusal is fine, which is what removing wants."""
    try:
        overlay.run_checked(["ip", *arguments])
    except overlay.CommandFailed:
        if check:
            raise


def sweep() -> None:
    """Remove what runs left behind whose process is gone: a kill leaves no time to tidy up."""
    groups = [group for top in control_groups() for group in top.glob("habt*")]
    for group in groups:
        if overlay.is_stale(group.name):
            kill_control_group(group)
            remove_control_group(group)
    # A name may be followed by "(id: N)".
    for line in overlay.run_checked(["ip", "netns", "list"]).splitlines():
        if overlay.is_stale(line):
            ip("netns", "delete", line.split()[0], check=False)
    for directory in overlay.CACHE.glob("*"):
        if overlay.is_stale(directory.name):
            shutil.rmtree(directory, ignore_errors=True)


class Cluster:
    """A context manager: the namespace, the bridge br0 at ADDRESS, and what was started in it."""

    def __init__(self) -> None:
        self.name = f"habt{os.getpid()}{next(_letters)}"
        self.directory = overlay.CACHE / self.name
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        sweep()
        with self._stack as stack:
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.directory.mkdir(parents=True)
            stack.callback(ip, "netns", "delete", self.name, check=False)
            ip("netns", "add", self.name)
            inside = ["-n", self.name]
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "link", "add", "br0", "type", "bridge")
            ip(*inside, "address", "add", f"{ADDRESS}/{PREFIX_LENGTH}", "dev", "br0")
            ip(*inside, "link", "set", "br0", "up")
            self._make_keys()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _make_keys(self) -> None:
        """One ssh key to log in with, and one that every machine shows."""
        for name in ("login", "host"):
            key = self.directory / name
            overlay.run_checked(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])

    def command(self, *words: str | Path) -> list[str]:
        """Return `words` as a command that runs in the cluster's namespace."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *map(str, words)]

    def run(self, *words: str | Path) -> str:
        """Run a command in the cluster's namespace; return its output, raise CommandFailed."""
        return overlay.run_checked(self.command(*words))

    @contextlib.contextmanager
    def running(self, *words: str | Path, log: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in the cluster's namespace until the block ends; output goes to `log`."""
        with (self.directory / log).open("ab") as output:
            process = subprocess.Popen(
                # A server must not outlive a run that was killed.
                ["setpriv", "--pdeathsig", "TERM", *self.command(*words)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def server(self, port: int, *words: str | Path, log: str) -> Iterator[None]:
        """As `running`, and the block begins when ADDRESS:port accepts connections."""
        with self.running(*words, log=log) as process:

            def accepts() -> bool:
                if process.poll() is not None:
                    output = (self.directory / log).read_text(errors="replace")
                    raise overlay.CommandFailed(f"{words[0]} ended: {output}")
                return self.connects(port)

            wait_until(accepts, f"{words[0]} listens on {port}")
            yield

    def connects(self, port: int, address: str = ADDRESS) -> bool:
        """Whether a TCP connection from the cluster's namespace is accepted."""
        program = (
            "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
        )
        try:
            self.run("/usr/bin/python3", "-Ic", program, address, str(port))
        except overlay.CommandFailed:
            return False
        return True

    def ssh(self, address: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Log in to a machine as root from the cluster's namespace and run `words` there."""
        return subprocess.run(
            self.ssh_command(address, *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def ssh_command(self, address: str, *words: str) -> list[str]:
        """Return `words` as a command that runs them in a machine over ssh."""
        known = self.directory / "known_hosts"
        host = (self.directory / "host.pub").read_text()
        known.write_text(f"* {host}")
        options: Sequence[str] = [
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=5"),
            *("-o", f"UserKnownHostsFile={known}", "-F", "none"),
            *("-i", str(self.directory / "login"), f"root@{address}"),
        ]
        return self.command("ssh", *options, *words)


class Session:
    """One ssh connection that stays open over what happens to the machine; a context manager."""

    def __init__(self, cluster: Cluster, address: str, script: str) -> None:
        """`script` answers each line it reads with one line."""
        self._process = subprocess.Popen(
            cluster.ssh_command(address, script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def exchange(self, line: str, within_s: float = 10) -> str:
        """Send a line and return the answer; raises Timeout if the connection hangs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        ready, _, _ = select.select([self._process.stdout], [], [], within_s)
        if not ready:
            raise Timeout(f"no answer to {line} over ssh within {within_s} s")
        return self._process.stdout.readline().rstrip("\n")


def notify_socket(path: Path) -> socket.socket:
    """Return a socket for the notifications of a service manager at `path`."""
    path.unlink(missing_ok=True)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(path))
    return receiver
