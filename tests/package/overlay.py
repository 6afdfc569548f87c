"""Throw-away Debian roots: run commands in an overlay that nobody has to unmount.

Each command gets a mount and a process namespace of its own, which end with it; an interrupted
build therefore leaves directories at most, never a mount or a process. Directories lie below the
cache directory, since an upper layer needs a file system that is not itself an overlay.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path("/var/cache/istio-hostagent-tests")

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The mounts are private to this shell: unshare makes their propagation private.
_ENTER = """
root=$1 lower=$2 upper=$3 work=$4 network=$5; shift 5
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
if [ "$network" = yes ]; then cat /etc/resolv.conf > "$root/etc/resolv.conf"; fi
exec chroot "$root" env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
"""


# What a run makes for itself carries its process id; see is_stale.
_OWNED = re.compile(r"(?:habt|scratch|draft)(\d+)\D")


class CommandFailed(Exception):
    """A command of the test harness ended with a status other than 0; the text is its output."""


def run_checked(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command of the build machine; return standard output, raise CommandFailed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise CommandFailed(f"{words}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def is_stale(name: str) -> bool:
    """Whether a name is that of something temporary whose process is gone."""
    match = _OWNED.match(name)
    return match is not None and not Path(f"/proc/{match[1]}").exists()


@dataclass(frozen=True)
class Scratch:
    """An overlay: `upper` holds what was changed on top of `lowers`, the topmost of them first."""

    lowers: tuple[Path, ...]
    directory: Path

    @property
    def upper(self) -> Path:
        """The layer that receives every change; it may be filled from outside before a run."""
        return self.directory / "upper"

    def run(self, *command: str, network: bool = False) -> str:
        """Run `command` in the root; return standard output, raise CommandFailed.

        Without `network` it has an empty network namespace: what it did not bring, it cannot get.
        """
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        if not network:
            unshare.append("--net")
        lower = ":".join(str(layer) for layer in self.lowers)
        places = [str(self.directory / "root"), lower, str(self.upper), f"{self.directory}/work"]
        flag = "yes" if network else "no"
        return run_checked([*unshare, "sh", "-euc", _ENTER, "enter", *places, flag, *command])


@contextlib.contextmanager
def scratch(*lowers: Path) -> Iterator[Scratch]:
    """Give an empty overlay on top of `lowers`, and delete it afterwards."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"scratch{os.getpid()}-", dir=CACHE) as name:
        directory = Path(name)
        # The root of the overlay takes the mode of the upper layer; 0700 would lock users out.
        for part in ("upper", "work", "root"):
            (directory / part).mkdir(mode=0o755)
        yield Scratch(lowers, directory)


@contextlib.contextmanager
def finished(target: Path) -> Iterator[Path]:
    """Give an empty directory that becomes `target` if the block succeeds, and vanishes if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"draft{os.getpid()}-", dir=target.parent))
    draft.chmod(0o755)
    try:
        yield draft
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of one cache entry, so that two runs do not build it twice."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Background:
    """A command of the build machine that runs beside the test; `finish` gives what it wrote."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        """Start it; it does not outlive the test's process."""
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, within_s: float = 60) -> str:
        """Wait for its end and return its output; raises CommandFailed."""
        try:
            output, errors = self._process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, errors = self._process.communicate()
        if self._process.returncode:
            raise CommandFailed(f"status {self._process.returncode}: {output}{errors}")
        return output
