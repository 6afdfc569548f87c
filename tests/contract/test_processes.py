"""What is promised of other processes: of real ones, and of those in memory."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from istio_hostagent.errors import ChildFailed
from istio_hostagent.host import children, mailbox, ports, procstate
from istio_hostagent.host.processes import User
from istio_hostagent.supervise import specs
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox
from tests.fakes.processes import FakeChild, FakeProcesses, Plan

ME = User(os.geteuid(), os.getegid())
PATIENCE_S = 20.0
# What a program does, for a shell, and for `FakeBehaviour`.
FAILS = ("/bin/sh", "-c", "echo no; exit 3")
DIES = ("/bin/sh", "-c", "kill -9 $$")
STAYS = ("/bin/sh", "-c", "echo here; exec /usr/bin/sleep 60")
# It has closed its output once it does not hear any more.
DEAF = ("/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do /usr/bin/sleep 0.05; done")


class Host(Protocol):
    @property
    def inbox(self) -> ports.Inbox[Any]: ...

    @property
    def processes(self) -> ports.Processes: ...


def spec(argv: Sequence[str]) -> specs.ProcessSpec:
    return specs.ProcessSpec("program", tuple(argv), (), ME.uid, ME.gid)


def wait_for_output(host: Host, program: ports.Program, text: str) -> None:
    for _ in range(1000):
        if text in program.tail():
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
        assert program.tail() == ("here",)

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
        for _ in range(1000):
            if host.processes.find_held((pid,)) == (pid, procstate.Hold.STOPPED):
                break
            host.inbox.wait(0.02)
        else:
            raise AssertionError("never seen stopped")
        program.child.signal_group(signal.SIGCONT)
        for _ in range(1000):
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

    def program(self, child: FakeChild, spec: specs.ProcessSpec) -> Plan:
        child.hears = spec.argv != DEAF
        child.output = b"here\n" if child.hears else b"deaf\n"
        return Plan(None)


class RealHost:
    def __init__(self, record: Path) -> None:
        self.inbox: mailbox.Mailbox[Any] = mailbox.Mailbox()
        self.processes = children.Processes(self.inbox, str(record))


class FakeHost:
    def __init__(self) -> None:
        clock = FakeClock()
        self.inbox = FakeInbox(clock)
        self.processes = FakeProcesses(self.inbox, clock, FakeBehaviour())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to switch users")
class TestProcesses(ProcessesContract):
    @pytest.fixture
    def host(self, tmp_path: Path) -> Host:
        return RealHost(tmp_path / "record")


class TestFakeProcesses(ProcessesContract):
    @pytest.fixture
    def host(self) -> Host:
        return FakeHost()
