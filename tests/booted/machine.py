"""One booted Debian machine: systemd-nspawn on an overlay of a base image.

It has a network namespace, a control group and a directory of its own, all removed by `close`,
also after a failure. Its root is mounted in a private mount namespace that ends with it, and it
shuts down when the process that started it is gone; what a killed run leaves besides, the next
one sweeps up. The network namespace is made new at each boot: rules that outlived a reboot, which
no real machine's do, would hide boot-order mistakes.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.booted import cluster as network
from tests.package import images, overlay

CAPABILITIES = "CAP_NET_ADMIN,CAP_SYS_RESOURCE,CAP_IPC_LOCK,CAP_BPF,CAP_PERFMON,CAP_SYSLOG"

# One group per machine: started from one group, several machines would share their units' groups.
_ENTER = """
lower=$1 upper=$2 work=$3 root=$4; shift 4
for group in $GROUPS_TO_JOIN; do echo $$ > "$group/cgroup.procs"; done
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
unset GROUPS_TO_JOIN
exec "$@"
"""

# A command joins the machine's groups too: no real process sees its group outside the root.
_JOIN = """
for group in $GROUPS_TO_JOIN; do
    mkdir -p "$group/payload/tests" && echo $$ > "$group/payload/tests/cgroup.procs"
done
exec "$@"
"""


class MachineFailed(Exception):
    """A machine did not boot, or a command in it failed; the text holds the output."""


class Machine:
    """A machine of a release at an address of the cluster; a context manager."""

    def __init__(
        self,
        cluster: network.Cluster,
        suite: str,
        name: str,
        address: str,
        *,
        layers: tuple[Path, ...] = (),
    ) -> None:
        """`layers` lie on top of the image, topmost first: what earlier machines installed."""
        self.cluster = cluster
        self.suite = suite
        self.name = name
        self.address = address
        self.directory = cluster.directory / name
        self._layers = layers
        self._namespace = f"{cluster.name}-{name}"
        # An interface name has 15 characters; the last number of the address tells machines apart.
        self._link = f"v{address.split('.')[2]}-{address.split('.')[3]}"
        self._groups = [top / self._namespace for top in network.control_groups()]
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader: int | None = None

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def on_disk(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file on the disk of a machine that does not run; `path` is without the slash."""
        target = self.directory / "upper" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def _prepare(self) -> None:
        for part in ("upper", "work", "root"):
            (self.directory / part).mkdir(parents=True, exist_ok=True, mode=0o755)
        keys = self.cluster.directory
        for path, text, mode in (
            ("etc/hostname", f"{self.name}\n", 0o644),
            ("etc/machine-id", f"{os.urandom(16).hex()}\n", 0o444),
            ("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost\n", 0o644),
            ("etc/resolv.conf", "", 0o644),
            ("etc/ssh/ssh_host_ed25519_key", (keys / "host").read_text(), 0o600),
            ("root/.ssh/authorized_keys", (keys / "login.pub").read_text(), 0o600),
            # What a power cut destroys is not a subject here, and syncing costs seconds.
            ("etc/dpkg/dpkg.cfg.d/tests", "force-unsafe-io\n", 0o644),
        ):
            self.on_disk(path, text, mode)
        (self.directory / "upper/root").chmod(0o700)

    def boot(self, within_s: float = 150) -> None:
        """Start the machine and return when its boot has finished; raises MachineFailed."""
        self._connect()
        for group in self._groups:
            group.mkdir(parents=True, exist_ok=True)
        path = self.directory / "notify"
        environment = {
            "PATH": overlay.PATH,
            "NOTIFY_SOCKET": str(path),
            "GROUPS_TO_JOIN": " ".join(map(str, self._groups)),
            # /proc/sys/net is writable inside, as on a real machine; the rest stays read-only.
            "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
            "UNIFIED_CGROUP_HIERARCHY": "1",
        }
        places = [self.directory / part for part in ("upper", "work", "root")]
        command = [
            *("setpriv", "--pdeathsig", "TERM", "unshare", "--mount"),
            *("sh", "-euc", _ENTER, "enter"),
            ":".join(map(str, [*self._layers, images.image(self.suite)])),
            *map(str, places),
            *self._nspawn_command(),
        ]
        with (
            network.notify_socket(path) as receiver,
            (self.directory / "console").open("ab") as console,
        ):
            self._nspawn = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
            self._await_boot(receiver, within_s)

    def _nspawn_command(self) -> list[str]:
        return [
            *("systemd-nspawn", "--quiet", "--boot", "--directory", str(self.directory / "root")),
            *("--machine", self._namespace, "--register=no", "--keep-unit", "--console=pipe"),
            *("--notify-ready=yes", "--kill-signal=SIGRTMIN+3", "--resolv-conf=off"),
            *("--timezone=off", "--link-journal=no", f"--capability={CAPABILITIES}"),
            f"--network-namespace-path=/run/netns/{self._namespace}",
            f"--hostname={self.name}",
        ]

    def _await_boot(self, receiver: socket.socket, within_s: float) -> None:
        assert self._nspawn is not None
        deadline = time.monotonic() + within_s
        receiver.settimeout(0.2)
        self._leader = None
        while self._nspawn.poll() is None and time.monotonic() < deadline:
            try:
                lines = receiver.recv(65536).decode().splitlines()
            except TimeoutError:
                continue
            for line in lines:
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])
            if "READY=1" in lines:
                return
        console = (self.directory / "console").read_text(errors="replace")
        raise MachineFailed(f"{self.name} ({self.suite}) did not boot:\n{console[-4000:]}")

    def _connect(self) -> None:
        self._disconnect()
        inside = ["-n", self._namespace]
        outside = ["-n", self.cluster.name]
        # As a real machine it keeps its hardware address: neighbours remember it over a reboot.
        numbers = (2, 0, *(int(part) for part in self.address.split(".")))
        hardware = ":".join(f"{number:02x}" for number in numbers)
        peer = ["peer", "name", "eth0", "address", hardware, "netns", self._namespace]
        network.ip("netns", "add", self._namespace)
        network.ip(*inside, "link", "set", "lo", "up")
        # No wait for duplicate addresses: the kernel would still change state while a test compares.
        quiet = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
        overlay.run_checked(["nsenter", f"--net=/run/netns/{self._namespace}", "sh", "-c", quiet])
        network.ip(*outside, "link", "add", self._link, "type", "veth", *peer)
        network.ip(*outside, "link", "set", self._link, "master", "br0", "up")
        own = f"{self.address}/{network.PREFIX_LENGTH}"
        network.ip(*inside, "address", "add", own, "dev", "eth0")
        network.ip(*inside, "link", "set", "eth0", "up")
        network.ip(*inside, "route", "add", "default", "via", network.ADDRESS)

    def _disconnect(self) -> None:
        # The link goes first: a namespace is taken down later than its name, and would hold it.
        network.ip("-n", self.cluster.name, "link", "delete", self._link, check=False)
        network.ip("netns", "delete", self._namespace, check=False)

    @property
    def link(self) -> str:
        """The cluster's end of the machine's cable: what a capture listens on."""
        return self._link

    def command(self, *words: str) -> list[str]:
        """Return `words` as a command of the build machine that runs them inside as root."""
        if self._leader is None:
            raise MachineFailed(f"{self.name} is not running")
        groups = " ".join(map(str, self._groups))
        enter = [
            "nsenter",
            "-t",
            str(self._leader),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "-r",
            "-w",
        ]
        clean = ["env", "-i", f"PATH={overlay.PATH}", "HOME=/root", "LANG=C.UTF-8"]
        quiet = ["DEBIAN_FRONTEND=noninteractive", "TERM=dumb", "container=systemd-nspawn"]
        join = ["env", f"GROUPS_TO_JOIN={groups}", "sh", "-euc", _JOIN, "join"]
        return [*join, *enter, *clean, *quiet, *words]

    def run(
        self, *words: str, check: bool = True, within_s: float = 120, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root; with `check` a status other than 0 raises MachineFailed."""
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
            check=False,
        )
        if check and done.returncode:
            output = f"{done.stdout}{done.stderr}"
            raise MachineFailed(f"{self.name}: {words}: status {done.returncode}\n{output}")
        return done

    def read(self, path: str) -> str:
        """Return the text of a file."""
        return self.run("cat", path).stdout

    def write(self, path: str, text: str, *, mode: str = "0644", owner: str = "root") -> None:
        """Put a file in place in one step, making the directories above it."""
        script = (
            'mkdir -p "${1%/*}"; cat > "$1.tests"; chown "$3:" "$1.tests"; chmod "$2" "$1.tests"; '
            'mv "$1.tests" "$1"'
        )
        self.run("sh", "-euc", script, "write", path, mode, owner, stdin=text)

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory."""
        return self.run("test", "-e", path, check=False).returncode == 0

    def unit(self, name: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit by name."""
        listing = self.run("systemctl", "show", name, *(f"-p{item}" for item in properties)).stdout
        return dict(line.split("=", 1) for line in listing.splitlines())

    def journal(self, unit: str | None = None) -> str:
        """Return the journal, of one unit if named; works with the machine running or not."""
        only = ["--unit", unit] if unit else []
        if self._leader is not None:
            self.run("journalctl", "--sync", check=False)
            return self.run("journalctl", "--no-pager", *only).stdout
        place = self.directory / "upper/var/log/journal"
        return overlay.run_checked(["journalctl", "--no-pager", "-D", place, *only])

    def reboot(self) -> None:
        """Reboot in an orderly way, on the same disk."""
        self.run("systemctl", "reboot", check=False)
        self._await_end(60)
        self.boot()

    def crash(self) -> None:
        """Cut the power; `boot` starts it again on the same disk."""
        if self._leader is not None:
            os.kill(self._leader, signal.SIGKILL)
        self._await_end(60)

    def stop(self) -> None:
        """Shut down in an orderly way; the disk stays."""
        if self._nspawn is not None:
            self._nspawn.terminate()
        self._await_end(60)

    def keep_disk(self, target: Path) -> Path:
        """Stop, and keep what was changed as a layer for other machines; the machine is gone."""
        self.stop()
        return (self.directory / "upper").rename(target)

    def _await_end(self, within_s: float) -> None:
        if self._nspawn is None:
            return
        try:
            self._nspawn.wait(within_s)
        except subprocess.TimeoutExpired:
            if self._leader is not None:
                os.kill(self._leader, signal.SIGKILL)
            self._nspawn.kill()
            self._nspawn.wait()
            raise MachineFailed(f"{self.name} did not go down in {within_s} s") from None
        finally:
            self._nspawn = None
            self._leader = None
            for group in self._groups:
                network.remove_control_group(group)

    def close(self) -> None:
        """Delete the machine with everything that belongs to it."""
        try:
            self.crash()
        finally:
            self._disconnect()
            shutil.rmtree(self.directory, ignore_errors=True)
