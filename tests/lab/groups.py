"""Control groups (version 2) of a test's own, with what runs in them always taken away again.

    with ControlGroup() as group:
        group.start(group.make("ssh.service"), namespace.argv(["sleep", "9"]))

Names are `hatest-PID-RANDOM`; what a killed test left behind is removed by the next one.
"""

import contextlib
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import netns, waiting

PREFIX = "hatest"
_MINE = re.compile(rf"{PREFIX}-(\d+)-[0-9a-f]{{6}}(\.slice)?")
# In front of a command in a namespace that is to see them: ip-netns(8) gives it another /sys.
SEEING = ["sh", "-c", 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"', "sh"]


def root() -> Path | None:
    """Where this machine has its groups, as far as a systemd has put them there."""
    for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (path / "cgroup.controllers").exists():
            return path
    return None


def missing() -> str:
    """Return why groups cannot be made here, "" if they can: for tests to skip or fail."""
    try:
        with ControlGroup():
            return ""
    except OSError as error:
        return f"no control groups: {error}"


class ControlGroup:
    """A group for a test, below which it makes what it needs. A context manager.

    `is_slice`: it looks like a slice of systemd, in which units are. `name`: nobody else's.
    """

    def __init__(self, *, is_slice: bool = False) -> None:
        self._top = root()
        self._processes: list[subprocess.Popen[str]] = []
        self.name = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(3)}"
        kind = ".slice" if is_slice else ""
        self.path = (self._top or Path("/")) / f"{self.name}{kind}"

    def path_of(self, name: str) -> str:
        """Where a group in it is, as /proc/PID/cgroup has it."""
        return f"/{self.path.name}/{name}"

    def remove(self, name: str) -> None:
        """End what runs in a group in it, and remove that."""
        _remove(self.path / name)

    def __enter__(self) -> "ControlGroup":
        if self._top is None:
            raise FileNotFoundError("no cgroup2 is mounted")
        for left in self._top.glob(f"{PREFIX}-*"):
            found = _MINE.fullmatch(left.name)
            if found and not Path(f"/proc/{found[1]}").exists():
                with contextlib.suppress(OSError):  # another one of these may do the same
                    _remove(left)
        self.path.mkdir()
        return self

    def __exit__(self, *_exc: object) -> None:
        _remove(self.path)
        netns.end(self._processes)

    def start(self, group: Path, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a process in a group; it may enter a namespace later, where /sys is another."""
        join = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
        process = subprocess.Popen(
            ["sh", "-c", join, str(group), *argv], stdin=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        return process

    @contextlib.contextmanager
    def joined(self, group: Path) -> Iterator[tuple[int, ...]]:
        """Let this whole process be in a group; gives the numbers of all groups it is in then."""
        assert self._top is not None
        own = Path("/proc/self/cgroup").read_text().partition("0::")[2].splitlines()[0]
        _join(group)
        try:
            ways = [group, *group.parents]
            depth = len(group.relative_to(self._top).parts)
            yield tuple(each.stat().st_ino for each in reversed(ways[:depth]))
        finally:
            _join(self._top / own.strip("/"))

    def make(self, name: str) -> Path:
        """Make a group in it; `name` may be a path."""
        made = self.path / name
        made.mkdir(parents=True)
        return made


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text("0")


def _remove(group: Path) -> None:
    """End what runs in a group and in those below, and remove them."""
    (group / "cgroup.kill").write_text("1")

    def is_empty() -> bool:
        return "populated 0" in (group / "cgroup.events").read_text()

    waiting.eventually(is_empty, f"nothing runs in {group} any more")
    for directory, _, _ in os.walk(group, topdown=False):
        os.rmdir(directory)
