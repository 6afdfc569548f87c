"""Where a host of the measurements is: a network namespace with names of its own.

Programs are started without a helper in between (`ip netns exec` takes milliseconds): what is
measured is theirs from exec on.
"""

import contextlib
import ctypes
import os
import pwd
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from istio_hostagent.host import control, users
from tests.lab import netns

from . import agentlog, cost

# The flags of unshare(2) and mount(2).
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


class Place:
    """A namespace plugged into a cluster, with a way to everywhere. A context manager."""

    def __init__(self, cluster: netns.Network, number: int, names: Mapping[str, str]) -> None:
        """`number`: a small one of its own, for its addresses; `names`: name to IPv4 address."""
        self.address = f"10.99.0.{number}"
        self.namespace = netns.Namespace(f"h{number}")
        try:
            self.namespace.__enter__()
            cluster.join(self.namespace, f"{self.address}/24", f"fd99::{number:x}/64")
            # With a way to everywhere no promise is excused as "no route".
            self.namespace.ip("route", "add", "default", "via", "10.99.0.1")
            self.namespace.ip("-6", "route", "add", "default", "via", "fd99::1")
            # There is no name server, so the host's own name stands there, too: libldap, which
            # comes with libcurl, looks it up when it is loaded.
            self.namespace.write_hosts({**names, socket.gethostname(): self.address})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        directory: str = "/",
        output: int | None = None,
    ) -> tuple[float, int]:
        """Start a program in here; returns when that was, in ms, and its pid."""
        hosts = netns.ETC / self.namespace.name / "hosts"

        def act() -> tuple[float, int]:
            mount_over("/etc/hosts", hosts)
            os.chdir(directory)
            return cost.now_ms(), cost.spawn(argv, env, output=output)

        return self.namespace.inside(act)

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> cost.Cost:
        """Run a program to its end in here, with the machine's names; raises NotMeasured."""
        return self.namespace.inside(lambda: cost.run(argv, env))

    def find(self, name: str) -> list[int]:
        """The processes in here that run a binary of this name."""
        found = []
        for pid in self.namespace.pids():
            try:
                binary = os.readlink(f"/proc/{pid}/exe")
            except FileNotFoundError:
                continue  # it has just ended
            if Path(binary).name == name:
                found.append(pid)
        return found

    def end_all(self, child: int) -> float:
        """SIGKILL to every process in here, and wait until their ports are free.

        Returns the CPU in ms of `child`, a process that we have started. Raises NotMeasured.
        """
        # Taken hold of before: one that is ending belongs to no namespace and has ports still.
        others = [pidfd for pid in self.namespace.pids() if pid != child for pidfd in _open(pid)]
        used_ms = cost.kill(child)
        try:
            for pidfd in others:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not select.select([pidfd], [], [], agentlog.PATIENCE_S)[0]:
                    raise cost.NotMeasured("a process cannot be ended")
        finally:
            for pidfd in others:
                os.close(pidfd)
        return used_ms

    def close(self) -> None:
        """End every process in here and delete it, with what a killed agent left in /run."""
        forget(self.namespace)
        self.namespace.close()


def _open(pid: int) -> list[int]:
    """The pidfd of a process, if there is one."""
    try:
        return [os.pidfd_open(pid)]
    except ProcessLookupError:
        return []


def forget(namespace: netns.Namespace) -> None:
    """Remove what agents and verbs that ran in a namespace leave in /run."""
    if namespace.path.exists():
        for path in Path(control.DIRECTORY).glob(f"{namespace.inode}.*"):
            path.unlink(missing_ok=True)


def show_proxy_user(directory: Path) -> None:
    """Let the proxy's user exist for this thread and all that it starts, as the package makes it.

    Without it each process that looks for it asks systemd, which takes memory (libnss_systemd,
    0.3 MB) and time that no host with the package pays. Raises OSError.
    """
    try:
        pwd.getpwnam(users.DEFAULT_USER)
    except KeyError:
        number = users.DEFAULT_ID
        entry = f"{users.DEFAULT_USER}:x:{number}:{number}::/var/lib/istio:/usr/sbin/nologin\n"
        known = directory / "passwd"
        known.write_text(Path("/etc/passwd").read_text() + entry)
        mount_over("/etc/passwd", known)


def mount_over(path: str, source: Path) -> None:
    """Show the calling thread, and what it starts, another file at `path`; raises OSError.

    The thread gets mounts and a working directory of its own by that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    private = ctypes.c_ulong(_MS_REC | _MS_PRIVATE)
    if (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(os.fsencode(source), path.encode(), None, ctypes.c_ulong(_MS_BIND), None)
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source))
