"""The demo as a user runs it: it shows that all holds, and leaves nothing, also after Ctrl-C."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import netns
from tests.lab.host import CHECKOUT, PYTHON

# Each demo clears away what an earlier one left: one after another.
pytestmark = pytest.mark.xdist_group("demo")
DEMO = [PYTHON, "-m", "tests.demo"]
LIMIT_S = 400.0
PROMISES = 9


class Run:
    """A demo under way, at the head of a process group, as a terminal starts it."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*DEMO, *arguments],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        self.lines: list[str] = []
        # The numbers of its namespaces, which are held: those of what is gone are given again.
        self.inodes: set[int] = set()
        self._held = contextlib.ExitStack()
        self._seen: set[Path] = set()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def read_until(self, words: str) -> None:
        """Read its output up to the line with these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self.hold()
            if words in line:
                return
        pytest.fail(f"never said {words!r}:\n{self.text}")

    def hold(self) -> None:
        """Note the namespaces that are there."""
        for path in set(self.namespaces()) - self._seen:
            with contextlib.suppress(FileNotFoundError):
                space = self._held.enter_context(path.open())
                found = os.fstat(space.fileno())
                # For a moment the name is that of an ordinary file.
                if found.st_dev == os.stat("/proc/self/ns/net").st_dev:
                    self.inodes.add(found.st_ino)
                    self._seen.add(path)

    def close(self) -> None:
        """Let go of its namespaces."""
        self._held.close()

    def finish(self) -> int:
        """Read the rest and return the exit status."""
        rest, _ = self.process.communicate(timeout=LIMIT_S)
        self.lines += rest.splitlines()
        return self.process.returncode

    def namespaces(self) -> list[Path]:
        return list(netns.RUN.glob(f"*-{self.process.pid}-*"))

    def directories(self) -> list[Path]:
        return list(Path("/tmp").glob(f"hademo-{self.process.pid}-*"))

    def processes(self) -> set[int]:
        """The processes in its namespaces, those that were seen and are gone included."""
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "ns/net").stat().st_ino in self.inodes:
                    found.add(int(entry.name))
            except OSError:
                continue  # it has just ended
        return found

    def remains(self) -> list[object]:
        """Everything of it that is still there."""
        control = Path("/run/istio-hostagent")
        files = [path for inode in self.inodes for path in control.glob(f"{inode}.*")]
        etc = list(netns.ETC.glob(f"*-{self.process.pid}-*"))
        return [*self.namespaces(), *self.directories(), *files, *etc, *self.processes()]


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Runs to be ended whatever happens."""
    made: list[Run] = []
    yield made
    for run in made:
        if run.process.poll() is None:
            run.process.terminate()
        run.process.wait(LIMIT_S)
        for directory in run.directories():
            subprocess.run([*DEMO, "--end", str(directory)], cwd=CHECKOUT, check=False)
        run.close()
        assert run.process.stdout is not None
        run.process.stdout.close()


@pytest.mark.envoy
def test_everything_holds_and_nothing_is_left(runs: list[Run], envoy: str) -> None:
    runs.append(run := Run("--envoy", envoy))
    run.read_until("agents started")
    assert run.finish() == 0, run.text
    table = run.text.partition("what  ")[2]
    assert table.count("  yes   ") == PROMISES, run.text
    assert "  NO  " not in table
    assert "peer spiffe://cluster.local/ns/demo/sa/a" in run.text
    assert "\033" not in run.text
    assert len(run.inodes) == 3
    assert run.remains() == []


@pytest.mark.envoy
@pytest.mark.parametrize(
    ("words", "sign"),
    [
        ("1  Two hosts", signal.SIGINT),
        ("host a ", signal.SIGINT),
        ("agents started", signal.SIGINT),
        ("proxy started", signal.SIGTERM),
        ("a asks b, 2 clients", signal.SIGINT),
    ],
)
def test_a_signal_leaves_nothing(
    runs: list[Run], envoy: str, words: str, sign: signal.Signals
) -> None:
    runs.append(run := Run("--envoy", envoy))
    run.read_until(words)
    # A terminal signals the whole group; somebody impatient does it twice.
    os.killpg(run.process.pid, sign)
    os.killpg(run.process.pid, sign)
    assert run.finish() == 128 + sign, run.text
    assert "nothing is left behind" in run.lines[-1]
    assert run.remains() == []


@pytest.mark.envoy
def test_what_is_kept_goes_on_until_it_is_ended(runs: list[Run], envoy: str) -> None:
    runs.append(run := Run("--envoy", envoy, "--keep"))
    run.read_until("agents started")
    assert run.finish() == 0, run.text
    commands = [line.strip() for line in run.lines[run.lines.index("  # is host a in the mesh") :]]
    said = dict(zip(commands[::2], commands[1::2], strict=True))

    def do(purpose: str) -> str:
        done = subprocess.run(
            said[f"# {purpose}"],
            shell=True,
            capture_output=True,
            text=True,
            timeout=150,
            check=True,
        )
        return done.stdout

    assert "in the mesh as spiffe://cluster.local/ns/demo/sa/a" in do("is host a in the mesh")
    assert "in place" in do("prove its rules again")
    assert "cluster.env:" in do("every value, and its line")
    assert '"path": "/hello"' in do("ask b from a")
    assert "table inet istio_hostagent" in do("see the rules of a")
    do("change b's ports")
    do("take b out of the mesh")
    do("end the demo")
    assert run.remains() == []


def test_a_demo_that_was_killed_is_cleared_away_by_the_next(runs: list[Run], envoy: str) -> None:
    runs.append(killed := Run("--envoy", envoy))
    killed.read_until("proxy started")
    killed.process.kill()
    killed.process.wait(LIMIT_S)
    assert killed.remains()
    runs.append(following := Run("--envoy", envoy))
    following.read_until("host a ")
    following.process.terminate()
    following.finish()
    assert killed.remains() == []


def test_what_is_missing_is_one_line_that_says_what_to_do() -> None:
    done = subprocess.run(
        [*DEMO, "--envoy", "/nowhere/envoy"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "/nowhere/envoy" in done.stderr
    assert "make demo" in done.stderr

    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *DEMO],
        cwd="/",
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named" in done.stderr:
        pytest.skip("the checkout lies where an ordinary user cannot read it")
    assert done.returncode == 1
    assert "as root" in done.stderr
