"""The main process of a unit as somebody looks after it who has not started it: systemd has.

Each question to the manager is a systemctl(1) that runs beside everything else; in between a pidfd
tells of the end of the process. Not here: which unit, and what runs in it (`proxyunit`).
Sources: systemctl(1), systemd.service(5), journalctl(1).
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import leftover, mailbox, processes

# Texts that are fixed; values come as arguments. A restart: whatever still is in the unit is of
# an earlier start.
_START = 'systemctl restart "$1" && systemctl show -p MainPID -p InvocationID "$1"'
# What has been asked for and is under way is waited for.
_LOOK = """
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    found=$(systemctl show -p MainPID -p InvocationID -p Job "$1")
    case $found in *MainPID=[1-9]*) break ;; *Job=[1-9]*) sleep 0.05 ;; *) break ;; esac
done
echo "$found"
"""
_LOOK_S = 5.0
# The unit runs until what it wrote has been passed on, which is waited for a second at most; the
# stop kills whatever is left. How it has ended is known to the manager until it is told to forget
# that. The log is asked once it has everything; not about one that SIGTERM or SIGKILL has ended,
# which has no last words.
_END = """
exec 2>/dev/null
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    ended=$(systemctl show -p SubState -p ExecMainCode -p ExecMainStatus "$1")
    case $ended in *SubState=running*) sleep 0.05 ;; *) break ;; esac
done
echo "$ended"
systemctl stop "$1"
systemctl show -p ExecMainCode -p ExecMainStatus "$1"
systemctl reset-failed "$1"
case $2,$ended in
,* | *ExecMainCode=2*ExecMainStatus=9* | *ExecMainCode=2*ExecMainStatus=15*) exit 0 ;;
esac
timeout 4 journalctl --quiet --sync
timeout 2 journalctl -q --no-pager -o cat -n 20 "_SYSTEMD_INVOCATION_ID=$2"
exit 0
"""
# When the manager has given no answer: it may be on its way (daemon-reexec), or be in trouble.
_END_AGAIN = f"sleep 1\n{_END}"
_FIELDS = ("MainPID", "InvocationID", "SubState", "ExecMainCode", "ExecMainStatus")
# Of waitid(2), as the manager tells them.
_EXITED = "1"

# What the manager has said, by the name of the field.
_Told = Mapping[str, Sequence[str]]
_Then = Callable[[int, _Told, tuple[str, ...]], None]


def is_in_unit(pid: int, unit: str) -> bool:
    """Whether a process is in the control group of a unit."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as groups:
            return any(unit in line.strip().split("/") for line in groups)
    except OSError:
        return False


def ask(unit: str) -> tuple[int, str]:
    """Wait for the manager to say the main process of a unit and its start; 0 and nothing: none.

    Raises OSError.
    """
    run = processes.Run(["/bin/sh", "-c", _LOOK, "systemctl", unit], has_errors=True)
    run.child.wait(_LOOK_S)
    lines = run.finish().decode(errors="replace").splitlines()
    run.child.wait(processes.STUCK_S)
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    pid = told.get("MainPID", "0")
    return int(pid) if pid.isdigit() else 0, told.get("InvocationID", "")


class UnitChild:
    """The main process of a unit. `descriptor`: readable once all of it has ended and is known.

    `pid` is 0 as long as the manager has not said it, and once that process has ended.
    """

    def __init__(self, inbox: mailbox.Mailbox[Any], unit: str, record: leftover.Leftover) -> None:
        """Nothing is started."""
        self.pid = 0
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.last_lines: tuple[str, ...] = ()
        self._inbox = inbox
        self._unit = unit
        self._record = record
        self._invocation = ""
        self._pidfd = -1
        self._asked: processes.Run | None = None  # of the manager, at the moment
        self._then: _Then = self._started
        self._told = 0  # a signal that came before there was a process to get it
        self._was_told = False  # to end: then nobody asks for its last words
        self._refusal: tuple[str, ...] = ()  # why it was not started
        self._status: int | None = None
        self._is_closed = False

    # -- what becomes of it ---------------------------------------------------------------------

    def start(self) -> None:
        """Ask for its start; raises OSError."""
        try:
            self._ask(_START, self._started)
        except OSError:
            os.close(self.descriptor)
            raise

    def take_on(self, pid: int, invocation: str) -> None:
        """Look after one that runs; 0, or one that has ended: what is left of it is ended."""
        self._invocation = invocation
        if not self._follow(pid):
            self._was_told = True
            self._tidy()

    def _ask(
        self,
        script: str,
        then: _Then,
        *arguments: str,
    ) -> None:
        argv = ["/bin/sh", "-c", script, "systemctl", self._unit, *arguments]
        self._asked, self._then = processes.Run(argv, has_errors=True), then
        self._inbox.watch(self._asked.child.descriptor, self._answered)

    def _answered(self) -> None:
        asked = self._asked
        assert asked is not None
        self._inbox.forget(asked.child.descriptor)
        self._asked = None
        status = asked.child.poll()
        lines = asked.finish().decode(errors="replace").splitlines()
        told: dict[str, list[str]] = {name: [] for name in _FIELDS}
        others: list[str] = []
        for line in lines:
            name, _, value = line.partition("=")
            if name in told:
                told[name].append(value)
            else:
                others.append(line)
        self._then(-1 if status is None else status, told, tuple(others))

    def _started(self, status: int, told: _Told, words: tuple[str, ...]) -> None:
        self._invocation = "".join(told["InvocationID"])
        pid = "".join(told["MainPID"])
        if status or not pid.isdigit():
            self._refusal = words or ("the service manager did not start it",)
        if self._refusal or self._told == signal.SIGKILL or not self._follow(int(pid)):
            self._tidy()
            return
        with contextlib.suppress(OSError):
            # Without it the next agent ends this one, and starts another.
            self._record.record_process(self._unit, self.pid, self._invocation)
        if self._told:
            self.signal(self._told)

    def _follow(self, pid: int) -> bool:
        """Hear of the end of this process; whether it is there, and the unit's."""
        try:
            descriptor = os.pidfd_open(pid) if pid else -1
        except OSError:
            return False
        if descriptor < 0:
            return False
        if not is_in_unit(pid, self._unit):
            os.close(descriptor)
            return False
        self.pid, self._pidfd = pid, descriptor
        self._inbox.watch(descriptor, self._main_ended)
        return True

    def _main_ended(self) -> None:
        self._forget_main()
        # pilot-agent's Envoy outlives it, and would hold up the stop of the unit.
        self._record.kill_behind(self.pid)
        self.pid = 0
        self._tidy()

    def _forget_main(self) -> None:
        if self._pidfd >= 0:
            self._inbox.forget(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _tidy(self, script: str = _END) -> None:
        """The main process has ended, or there is none: end the rest, and ask how it was."""
        invocation = "" if self._was_told else self._invocation
        try:
            self._ask(script, self._tidied, invocation)
        except OSError as error:
            # The next start ends what is left before it starts anything.
            self._end(1, (f"cannot ask the service manager: {error.strerror}",))

    def _tidied(self, _status: int, told: _Told, words: tuple[str, ...]) -> None:
        if not told["ExecMainCode"]:
            self._tidy(_END_AGAIN)
            return
        # The first one that says how it has ended counts: the manager forgets it with the stop.
        ends = zip(told["ExecMainCode"], told["ExecMainStatus"], strict=False)
        code, value = next((end for end in ends if end[0] != "0"), (_EXITED, "0"))
        number = int(value) if value.isdigit() else 0
        status = number if code == _EXITED else -number
        self._end(status or int(bool(self._refusal)), (*words, *self._refusal))

    def _end(self, status: int, lines: tuple[str, ...]) -> None:
        self._status = status
        self.last_lines = lines
        with contextlib.suppress(OSError):
            # Else the next agent finds it, and that it has ended.
            self._record.forget_unit(self._unit)
        os.eventfd_write(self.descriptor, 1)

    # -- ports.Child ----------------------------------------------------------------------------

    def poll(self) -> int | None:
        """Take the exit status (negative: the signal that ended it); None while it runs."""
        if self._status is not None and not self._is_closed:
            self._is_closed = True
            os.close(self.descriptor)
        return self._status

    def has_ended(self) -> bool:
        """Whether all of it has ended."""
        return self._status is not None

    def await_end(self, timeout_s: float) -> None:
        """Wait for the end, at most so many seconds, without taking the status."""
        until = time.monotonic() + timeout_s
        while self._status is None and (left := until - time.monotonic()) > 0:
            asked = self._asked
            descriptor = asked.child.descriptor if asked is not None else self._pidfd
            if select.select([descriptor], [], [], left)[0]:
                (self._answered if asked is not None else self._main_ended)()

    def signal(self, number: int) -> None:
        """Send a signal to the main process, or once there is one."""
        self._was_told = self._was_told or number in (signal.SIGTERM, signal.SIGKILL)
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
        elif self._told != signal.SIGKILL:
            self._told = number

    def signal_group(self, number: int) -> None:
        """Send a signal to the process group that the main process leads, while that runs."""
        if self._pidfd >= 0 and not select.select([self._pidfd], [], [], 0.0)[0]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
        else:
            self.signal(number)

    def end_group(self) -> None:
        """SIGKILL to all of it; what is not in the group of the main process goes after that."""
        self._was_told = True
        self.signal_group(signal.SIGKILL)

    def end(self, timeout_s: float) -> int | None:
        """SIGTERM, after `timeout_s` seconds SIGKILL; returns the exit status.

        None: it still runs a while after that.
        """
        self.signal(signal.SIGTERM)
        self.await_end(timeout_s)
        if self._status is None:
            self.end_group()
            self.await_end(processes.STUCK_S + timeout_s)
        return self.poll()

    def let_go(self) -> None:
        """Look after it no more."""
        self._forget_main()
        if self._asked is not None:
            self._inbox.forget(self._asked.child.descriptor)
