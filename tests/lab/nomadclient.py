"""A machine for Nomad: on the network of the tests, with the package and an Envoy installed.

    with Client(cluster, "10.78.0.11/24", directory, envoy=binary) as client:
        client.run(["/usr/sbin/istio-hostagent", "--version"])

It has a network namespace and a mount namespace: /usr, /etc and /var are those of this machine
with layers of its own on top, /run is empty. Everything ends with it, what is mounted in there, too.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import netns
from tests.lab.host import CHECKOUT

PROXY_USER = 1337
INTERFACE = "eth0"
_START_S = 30.0
# Of the mount namespace: ended, nothing is left of it.
_KEEP = """
set -e
for each in usr etc var; do
    mount -t overlay overlay -o "lowerdir=/$each,upperdir=$1/$each,workdir=$1/work-$each" "/$each"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
echo ready
exec sleep infinity
"""


class Client:
    """One such machine. A context manager.

    `directory`: an empty one, not on an overlay. `root`: the PEM file of the mesh's roots.
    """

    def __init__(
        self,
        cluster: netns.Network,
        address: str,
        directory: Path,
        *,
        gateway: str,
        envoy: str,
        root: Path,
    ) -> None:
        self.namespace = netns.Namespace("client")
        self.address = address.partition("/")[0]
        self.directory = directory
        self.allocations: set[str] = set()  # ids of those that have run here
        self._cluster = cluster
        self._cidr = address
        self._gateway = gateway
        self._envoy = envoy
        self._root = root
        self._keeper: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Client":
        self._install()
        self.namespace.__enter__()
        try:
            self._cluster.join(self.namespace, self._cidr, interface=INTERFACE)
            self.namespace.ip("route", "add", "default", "via", self._gateway)
            self.namespace.sysctl("net.ipv4.ip_forward", "1")
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._keeper is not None:
            for pid in self.pids():
                if pid != self._keeper.pid:
                    with contextlib.suppress(ProcessLookupError):  # with its parent
                        os.kill(pid, signal.SIGKILL)
            netns.end([self._keeper])
        self.namespace.close()

    @property
    def keeper(self) -> int:
        """The process that holds the machine together."""
        assert self._keeper is not None
        return self._keeper.pid

    def argv(self, words: Sequence[str]) -> list[str]:
        """Give the command line that runs `words` on this machine; each step becomes the next."""
        assert self._keeper is not None
        place = f"/proc/{self._keeper.pid}/ns"
        return ["nsenter", f"--mount={place}/mnt", f"--net={place}/net", "--", *words]

    def run(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 60.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run something there; with `check` raises LabError for a status other than 0."""
        done = subprocess.run(
            self.argv(words),
            input=stdin,
            env=None if env is None else dict(env),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise netns.LabError(f"{' '.join(words)}: status {done.returncode}: {said}")
        return done

    def pids(self) -> list[int]:
        """Give all processes of this machine: those in its mount namespace, or one below.

        What another Nomad on this computer runs is none of them.
        """
        assert self._keeper is not None
        own = os.readlink(f"/proc/{self._keeper.pid}/ns/mnt")
        return [pid for pid in _all_pids() if self._is_here(pid, own)]

    def _is_here(self, pid: int, mounts: str) -> bool:
        """Whether a process sees these mounts, has a root of ours, or is of an allocation here."""
        try:
            where = os.readlink(f"/proc/{pid}/ns/mnt")
            root = os.readlink(f"/proc/{pid}/root")
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        marks = {f"NOMAD_ALLOC_ID={each}".encode() for each in self.allocations}
        is_below = root.startswith(f"{self.directory}/")
        return where == mounts or is_below or not marks.isdisjoint(environment)

    def _install(self) -> None:
        layers = self.directory / "layers"
        for name in ("usr", "etc", "var", "work-usr", "work-etc", "work-var"):
            (layers / name).mkdir(parents=True)
        subprocess.run(
            ["make", "-s", "-C", str(CHECKOUT), "install", f"DESTDIR={layers}"],
            check=True,
            capture_output=True,
        )
        local = layers / "usr/local/bin"
        local.mkdir(parents=True)
        link_or_copy(Path(self._envoy), local / "envoy")
        # Nomad looks whether the kernel knows bridges; here no module is a file.
        modules = layers / "usr/lib/modules" / os.uname().release
        modules.mkdir(parents=True)
        (modules / "modules.builtin").write_text("kernel/net/bridge/bridge.ko\n")
        etc = layers / "etc"
        lines = Path("/etc/passwd").read_text().splitlines()
        others = [line for line in lines if not line.startswith("istio-proxy:")]
        user = f"istio-proxy:x:{PROXY_USER}:{PROXY_USER}::/nonexistent:/usr/sbin/nologin"
        (etc / "passwd").write_text("\n".join([*others, user]) + "\n")
        (etc / "istio-hostagent").mkdir(exist_ok=True)
        (etc / "istio-hostagent/hostagent.env").write_text("ISTIO_HOSTAGENT_ACCESS_LOG=true\n")
        (etc / "certs").mkdir()
        shutil.copy(self._root, etc / "certs/root-cert.pem")
        (etc / "certs/root-cert.pem").chmod(0o644)

    def _start(self) -> None:
        self._keeper = subprocess.Popen(
            [
                *("nsenter", f"--net={self.namespace.path}", "unshare", "--mount"),
                *(
                    "--propagation=private",
                    "sh",
                    "-c",
                    _KEEP,
                    "sh",
                    str(self.directory / "layers"),
                ),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        assert self._keeper.stdout is not None and self._keeper.stderr is not None
        if self._keeper.stdout.readline() != "ready\n":
            raise netns.LabError(f"no client of Nomad: {self._keeper.stderr.read()}")


def link_or_copy(source: Path, target: Path) -> None:
    """Have a program at another place as well, which nobody writes to; a link where one may be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
        target.chmod(0o755)


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
