"""What is promised of other processes: of children, of units of systemd, and of those in memory.

Units are tried on booted machines (`tests/booted/test_proxy_unit.py` runs this file there).
"""

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from istio_hostagent.errors import ChildFailed
from istio_hostagent.host import children, mailbox, ports, procstate, proxyunit
from istio_hostagent.host.processes import User
from istio_hostagent.supervise import liveness, specs
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox
from tests.fakes.processes import FakeChild, FakeProcesses, FakeUnits, Plan

ME = User(os.geteuid(), os.getegid())
NOBODY = User(65534, 65534)
PATIENCE_S = 60.0
# What a program does (it says what matters on standard error, as proxies do), for a shell, and for `FakeBehaviour`.
FAILS = ("/bin/sh", "-c", "echo no >&2; exit 3")
DIES = ("/bin/sh", "-c", "kill -9 $$")
STAYS = ("/bin/sh", "-c", "echo here >&2; exec /usr/bin/sleep 60")
SHOWS = ("/bin/sh", "-c", 'echo "$A" >&2; exit 5')
# It has closed its output once it does not hear any more.
DEAF = ("/bin/sh", "-c", "trap '' TERM; echo deaf >&2; while :; do /usr/bin/sleep 0.05; done")


class Host(Protocol):
    @property
    def inbox(self) -> ports.Inbox[Any]: ...

    @property
    def processes(self) -> ports.Processes: ...

    def has_said(self, program: ports.Program, text: str) -> bool:
        """Whether a program has written a line."""

    def again(self) -> "Host":
        """What comes after this one, which is gone without a word."""


def spec(argv: Sequence[str]) -> specs.ProcessSpec:
    door = liveness.Door("program", 1, "/ready")
    environment = (("A", "with 'quotes\" and $B\nlines"),)
    return specs.ProcessSpec(
        "program", tuple(argv), environment, ME.uid, ME.gid, "/", (door,), has_unit=True
    )


def wait_for_output(host: Host, program: ports.Program, text: str) -> None:
    for _ in range(3000):
        if host.has_said(program, text) and program.child.pid:
            return
        host.inbox.wait(0.02)
    raise AssertionError(f"{text} was not written")


def ended(host: Host, child: ports.Child) -> None:
    """Wait for its end, as the agent does."""

    def read() -> str:
        host.inbox.forget(child.descriptor)
        return "ended"

    host.inbox.watch(child.descriptor, read)
    assert host.inbox.wait(PATIENCE_S) == ["ended"]


class ProcessesContract:
    def test_the_end_of_a_run_is_told_and_its_status_taken_once(self, host: Host) -> None:
        run = host.processes.start_run(FAILS, user=ME)
        assert run.child.poll() is None or run.child.poll() == 3
        if run.child.poll() is None:
            ended(host, run.child)
        assert run.child.has_ended()
        assert run.child.poll() == 3
        assert run.finish() == b"no\n"

    def test_a_signal_is_a_negative_status(self, host: Host) -> None:
        run = host.processes.start_run(DIES, user=ME)
        run.child.await_end(PATIENCE_S)
        assert run.child.has_ended()
        assert run.child.poll() == -signal.SIGKILL
        run.finish()

    def test_finishing_kills_what_still_runs(self, host: Host) -> None:
        run = host.processes.start_run(STAYS, user=ME)
        assert not run.child.has_ended()
        run.finish()
        run.child.await_end(PATIENCE_S)
        assert run.child.has_ended()

    def test_sigterm_ends_a_program_that_listens(self, host: Host) -> None:
        program = host.processes.start_program(spec(STAYS))
        wait_for_output(host, program, "here")
        program.child.signal(signal.SIGTERM)
        ended(host, program.child)
        assert program.child.poll() == -signal.SIGTERM

    def test_the_last_words_of_a_program_that_fails_are_known(self, host: Host) -> None:
        program = host.processes.start_program(spec(FAILS))
        ended(host, program.child)
        assert program.child.poll() == 3
        assert program.tail()[-1] == "no"

    def test_a_program_has_the_environment_it_was_given(self, host: Host) -> None:
        program = host.processes.start_program(spec(SHOWS))
        ended(host, program.child)
        assert program.child.poll() == 5
        assert program.tail()[-2:] == ("with 'quotes\" and $B", "lines")

    def test_one_that_does_not_listen_is_ended_all_the_same(self, host: Host) -> None:
        program = host.processes.start_program(spec(DEAF))
        wait_for_output(host, program, "deaf")
        assert program.child.end(0.2) == -signal.SIGKILL
        program.child.signal(signal.SIGTERM)  # to nobody

    def test_a_stopped_process_is_seen_and_can_be_continued(self, host: Host) -> None:
        program = host.processes.start_program(spec(STAYS))
        wait_for_output(host, program, "here")
        pid = program.child.pid
        assert host.processes.find_held((pid,)) == (0, procstate.Hold.NONE)
        program.child.signal(signal.SIGSTOP)
        for _ in range(3000):
            if host.processes.find_held((pid,)) == (pid, procstate.Hold.STOPPED):
                break
            host.inbox.wait(0.02)
        else:
            raise AssertionError("never seen stopped")
        program.child.signal_group(signal.SIGCONT)
        for _ in range(3000):
            if host.processes.find_held((pid,)) == (0, procstate.Hold.NONE):
                break
            host.inbox.wait(0.02)
        else:
            raise AssertionError("never seen continued")
        program.child.end_group()
        assert program.child.end(1.0) == -signal.SIGKILL

    def test_a_worker_that_ends_badly_or_still_runs_has_no_result(self, host: Host) -> None:
        worker = host.processes.start_worker("reader", {"wrong": 1}, user=None)
        worker.child.await_end(PATIENCE_S)
        with pytest.raises(ChildFailed, match="worker reader"):
            worker.result()
        worker = host.processes.start_worker("reader", ["/etc/hostname"], user=None)
        with pytest.raises(ChildFailed, match="did not end in time"):
            worker.result()
        worker.child.await_end(PATIENCE_S)
        assert worker.child.has_ended()

    def test_a_server_serves_until_it_is_ended_and_its_end_is_told(self, host: Host) -> None:
        server = host.processes.start_server("secrets", (), user=ME)
        ended(host, server)
        assert server.poll() == 1  # it lacks its arguments
        with tempfile.TemporaryDirectory(prefix="hatest-served-") as place:
            Path(place).chmod(0o777)
            arguments = (place, f"{place}/socket")
            server = host.processes.start_server("secrets", arguments, user=NOBODY)
            assert not server.has_ended()
            server.end_group()
            ended(host, server)
        assert server.poll() == -signal.SIGKILL

    def test_what_cannot_be_started_says_so(self, host: Host) -> None:
        run = host.processes.start_run(("/nonexistent/program",), user=ME)
        run.child.await_end(PATIENCE_S)
        assert run.child.poll() in (126, 127)
        run.finish()


class FakeBehaviour:
    """The programs above."""

    def worker(self, module: str, request: Any) -> Plan:
        return Plan(0.05, lambda: (1 if isinstance(request, dict) else 0, b"[]"))

    def once(self, argv: Sequence[str]) -> Plan:
        ends: dict[tuple[str, ...], tuple[int, bytes]] = {
            FAILS: (3, b"no\n"),
            DIES: (-signal.SIGKILL, b""),
        }
        if tuple(argv) == STAYS:
            return Plan(None)
        return Plan(0.01, lambda: ends.get(tuple(argv), (127, b"")))

    def server(self, module: str, arguments: Sequence[str]) -> Plan:
        return Plan(None) if len(arguments) == 2 else Plan(0.05, lambda: (1, b""))

    def program(self, child: FakeChild, spec: specs.ProcessSpec) -> Plan:
        if spec.argv == FAILS:
            return Plan(0.01, lambda: (3, b"no\n"))
        if spec.argv == SHOWS:
            shown = f"{dict(spec.environment)['A']}\n".encode()
            return Plan(0.01, lambda: (5, shown))
        child.hears = spec.argv != DEAF
        child.output = b"here\n" if child.hears else b"deaf\n"
        return Plan(None)


class UnitsContract(ProcessesContract):
    """What is promised besides where a program has a unit of its own."""

    def test_a_program_outlives_who_has_started_it_and_is_found_again(self, host: Host) -> None:
        program = host.processes.start_program(spec(STAYS))
        wait_for_output(host, program, "here")
        pid = program.child.pid
        assert program.unit
        program.let_go()

        later = host.again()
        (found,) = later.processes.find_programs()
        launched, taken = found
        assert launched == spec(STAYS)
        assert (taken.child.pid, taken.unit) == (pid, program.unit)
        assert later.processes.end_leftover() == 0
        assert not taken.child.has_ended()
        taken.child.signal(signal.SIGTERM)
        ended(later, taken.child)
        assert taken.child.poll() == -signal.SIGTERM

    def test_of_two_side_by_side_both_are_found_and_the_one_that_is_left(self, host: Host) -> None:
        first = host.processes.start_program(spec(STAYS))
        wait_for_output(host, first, "here")
        second = host.processes.start_program(spec(STAYS)._replace(epoch=1))
        wait_for_output(host, second, "here")
        assert first.unit != second.unit
        units, pids = (second.unit, first.unit), (second.child.pid, first.child.pid)
        for each in (first, second):
            each.let_go()

        later = host.again()
        found = later.processes.find_programs()
        assert tuple(each.unit for _, each in found) == units
        assert tuple(each.child.pid for _, each in found) == pids
        assert [launched.epoch for launched, _ in found] == [1, 0]
        found[0][1].child.signal(signal.SIGTERM)
        ended(later, found[0][1].child)
        assert found[0][1].child.poll() == -signal.SIGTERM
        found[1][1].let_go()

        last = later.again()
        (left,) = last.processes.find_programs()
        assert (left[0].epoch, left[1].unit) == (0, units[1])
        left[1].child.end_group()
        ended(last, left[1].child)

    def test_one_that_is_killed_meanwhile_is_not_there(self, host: Host) -> None:
        program = host.processes.start_program(spec(STAYS))
        wait_for_output(host, program, "here")
        program.child.signal_group(signal.SIGKILL)
        program.let_go()
        later = host.again()
        for _, found in later.processes.find_programs():
            ended(later, found.child)
            assert found.child.poll() is not None
        after = later.processes.start_program(spec(STAYS))
        wait_for_output(later, after, "here")
        after.child.end_group()
        ended(later, after.child)
        assert after.child.poll() == -signal.SIGKILL

    def test_nothing_is_found_where_nothing_was_started(self, host: Host) -> None:
        assert host.processes.find_programs() == ()
        program = host.processes.start_program(spec(FAILS)._replace(has_unit=False))
        assert program.unit == ""
        ended(host, program.child)
        assert program.child.poll() == 3
        assert host.again().processes.find_programs() == ()


class RealHost:
    def __init__(self, record: Path, *, has_units: bool = False) -> None:
        self._record = record
        self._has_units = has_units
        self.inbox: mailbox.Mailbox[Any] = mailbox.Mailbox()
        make_units = functools.partial(proxyunit.Units, self.inbox) if has_units else None
        self.processes = children.Processes(self.inbox, str(record), make_units)

    def has_said(self, program: ports.Program, text: str) -> bool:
        if not program.unit:
            return text in program.tail()
        log = ("journalctl", "-q", "-o", "cat", "-n", "1", "_TRANSPORT=stdout", "-u", program.unit)
        return text in subprocess.run(log, capture_output=True, text=True, check=False).stdout

    def again(self) -> "RealHost":
        return RealHost(self._record, has_units=self._has_units)


class FakeHost:
    def __init__(self, units: FakeUnits | None = None, clock: FakeClock | None = None) -> None:
        clock = self._clock = clock or FakeClock()
        self._units = units
        self.inbox = FakeInbox(clock)
        self.processes = FakeProcesses(self.inbox, clock, FakeBehaviour(), units=units)

    def has_said(self, program: ports.Program, text: str) -> bool:
        return text in program.tail()

    def again(self) -> "FakeHost":
        return FakeHost(self._units, self._clock)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to switch users")
class TestProcesses(ProcessesContract):
    @pytest.fixture
    def host(self, tmp_path: Path) -> Host:
        return RealHost(tmp_path / "record")


class TestFakeProcesses(ProcessesContract):
    @pytest.fixture
    def host(self) -> Host:
        return FakeHost()


class TestFakeUnits(UnitsContract):
    @pytest.fixture
    def host(self) -> Host:
        return FakeHost(FakeUnits())


class TestUnits(UnitsContract):
    # On a booted machine with the package, and nowhere else.
    __test__ = os.path.isdir("/run/systemd/system") and shutil.which("istio-hostagent") is not None

    @pytest.fixture
    def host(self, tmp_path: Path) -> Host:
        return RealHost(tmp_path / "record", has_units=True)
