"""Rules that are in until somebody confirms them: who applied them, until when, what came of it.

Not here: what was there before, and going back to it (`fallback`). Everything lies beside the lock
of the network namespace, in /run: a reboot ends it like the rules themselves. Only who holds that
lock changes these files. Light: what looks whether there is something needs no more.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import NotPermitted, Unconfirmed
from . import clock, control, files

# Kinds of files (`control.path_of`): the rules that wait; what was there before; what became of
# the last ones; the lock of the process that goes back.
RECORD, BEFORE, OUTCOME, WATCH = "unconfirmed", "before", "outcome", "watch"
CONFIRMED, TAKEN_BACK, CLEANED = "confirmed", "taken back", "cleaned"
CONFIRM = "istio-hostagent apply --confirm"
GO_BACK = "istio-hostagent apply --go-back"
_TO_DECIDE = f"{CONFIRM} keeps them, {GO_BACK} puts back what was there before"

_SO_NETNS_COOKIE = 71  # linux: asm-generic/socket.h; a number that no other namespace ever gets
_MAX_WHO = 100
_PAUSE_S = 0.01


class Record(NamedTuple):
    """Rules that wait for confirmation.

    `until`: unix seconds, to be shown. `until_at`: the same moment by CLOCK_BOOTTIME, which nobody
    sets and which goes on while the machine is suspended.
    """

    id: str
    who: str
    until: float
    until_at: float
    namespace: int

    @property
    def left_s(self) -> float:
        """How long it is until they go out; below zero: they should be out."""
        return self.until_at - now()


class Outcome(NamedTuple):
    """What became of rules that waited, and when (unix seconds); `what` is empty if forgotten."""

    id: str
    who: str
    what: str
    at: float
    namespace: int


def now() -> float:
    """Seconds by the clock of `Record.until_at`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def identify(environment: Mapping[str, str]) -> str:
    """Say who asks, as far as this process knows: the user, the terminal and where from."""
    names = ("SUDO_USER", "LOGNAME", "USER")
    words = [next(filter(None, map(environment.get, names)), f"uid {os.getuid()}")]
    with contextlib.suppress(OSError):
        words.append(f"on {os.ttyname(0).removeprefix('/dev/')}")
    if client := environment.get("SSH_CONNECTION", "").split(" ")[0]:
        words.append(f"from {client}")
    text = "".join(each if each.isprintable() else "?" for each in " ".join(words))
    return text[:_MAX_WHO]


def make_id() -> str:
    """Give a name to rules that will wait."""
    return os.urandom(4).hex()


def begin(record_id: str, who: str, within_s: float) -> Record:
    """Write down that what is applied next goes back after so many seconds; raises OSError."""
    made = Record(record_id, who, time.time() + within_s, now() + within_s, _namespace())
    _write(RECORD, made)
    return made


def find() -> Record | None:
    """What waits in this network namespace; raises Unconfirmed if that cannot be read."""
    found = _read(RECORD)
    if found is None:
        return None
    try:
        record = Record(**found)
        is_here = record.namespace == _namespace()
    except (TypeError, OSError) as error:
        raise _unreadable(RECORD, error) from error
    outcome = find_outcome()
    # Whoever decided may have been killed before it removed the record.
    is_decided = outcome is not None and outcome.id == record.id
    return record if is_here and not is_decided else None


def refuse() -> None:
    """Raise Unconfirmed if rules wait here: who applied them, and until when."""
    record = find()
    if record is not None:
        raise Unconfirmed(describe(record, find_watcher(record.id)), hint=_TO_DECIDE)


def report() -> dict[str, Any]:
    """What `status` says of rules that wait here, or of the last that did; empty: none ever."""
    record = find()
    if record is not None:
        watcher = find_watcher(record.id)
        return {
            "state": "waiting" if watcher.pid else "abandoned",
            "who": record.who,
            "until": record.until,
            "pid": watcher.pid or None,
            "last_error": watcher.last_error,
            "summary": describe(record, watcher),
            "hint": _TO_DECIDE,
        }
    outcome = find_outcome()
    if outcome is None or not outcome.what:
        return {}
    return {
        "state": outcome.what,
        "who": outcome.who,
        "until": outcome.at,
        "pid": None,
        "last_error": "",
        "summary": describe_outcome(outcome),
        "hint": "",
    }


def decide(record: Record, what: str) -> None:
    """Write down what became of it, and that nothing waits any more; raises OSError."""
    _write(OUTCOME, Outcome(record.id, record.who, what, time.time(), record.namespace))
    discard()


def clean() -> None:
    """Everything was taken out: whatever waits here is decided, also if it cannot be read.

    Raises OSError.
    """
    try:
        record = find()
    except Unconfirmed:
        # The process that was to go back has it in memory, and would.
        watch = _read_watch()
        record = Record(watch[0] if watch is not None else "", "somebody", 0, 0, _namespace())
    if record is not None:
        decide(record, CLEANED)


def discard() -> None:
    """Remove what says that rules wait; raises OSError."""
    files.remove(control.path_of(RECORD))
    files.remove(control.path_of(BEFORE))


def forget() -> None:
    """Other rules are in by now: what became of earlier ones is of no interest; raises OSError.

    That they were decided stays: the process that was to go back may not have seen it yet.
    """
    outcome = find_outcome()
    if outcome is not None and outcome.what:
        _write(OUTCOME, outcome._replace(what=""))


def find_outcome() -> Outcome | None:
    """What became of the last rules that waited; None: none did, or it is not known."""
    found = _read(OUTCOME)
    try:
        outcome = Outcome(**found) if found is not None else None
    except TypeError:
        return None
    return outcome if outcome is not None and outcome.namespace == _namespace() else None


class Watch:
    """The lock of the process that goes back, held as long as that lives."""

    def __init__(self, record_id: str) -> None:
        """Wait for the end of the one before, and say for which rules this one is."""
        self._id = record_id
        self._lock = control.Lock(WATCH)
        self._lock.wait()
        self.tell("")

    def tell(self, last_error: str) -> None:
        """Tell whoever looks why going back has failed."""
        self._lock.write(json.dumps([self._id, os.getpid(), last_error]).encode())


class Watcher(NamedTuple):
    """The process that goes back, and why it could not; pid 0: there is none."""

    pid: int = 0
    last_error: str = ""


def find_watcher(record_id: str) -> Watcher:
    """Look for the process that goes back from these rules."""
    watch = _read_watch()
    return Watcher(*watch[1:]) if watch is not None and watch[0] == record_id else Watcher()


def _read_watch() -> tuple[str, int, str] | None:
    """What the process that goes back says: from which rules, its pid, and why it could not."""
    lock = control.Lock(WATCH)
    try:
        if lock.take(is_shared=True):
            return None
        found, pid, last_error = json.loads(lock.read())
    except ValueError:
        return None  # it is about to say who it is
    finally:
        lock.close()
    return str(found), int(pid), str(last_error)


def await_watcher(record_id: str, within_s: float) -> bool:
    """Wait until there is a process that goes back from these rules; says whether there is."""
    end = time.monotonic() + within_s
    while not find_watcher(record_id).pid:
        if time.monotonic() >= end:
            return False
        time.sleep(_PAUSE_S)
    return True


def describe(record: Record, watcher: Watcher) -> str:
    """Say in one sentence who applied them, and what happens when."""
    moment = clock.utc_text(record.until, "%Y-%m-%d %H:%M:%S UTC")
    begin = f"rules applied by {record.who} wait for confirmation"
    if not watcher.pid:
        gone = "the process that was to take them back is gone, and nobody does"
        return f"{begin} that was due by {moment}; {gone}"
    if watcher.last_error:
        return f"{begin} that was due by {moment}; they cannot be taken back: {watcher.last_error}"
    if record.left_s <= 0:
        return f"{begin} that was due by {moment}; they are being taken back"
    return f"{begin} until {moment}"


def describe_outcome(outcome: Outcome) -> str:
    """Say in one sentence what became of them."""
    moment = clock.utc_text(outcome.at, "%Y-%m-%d %H:%M:%S UTC")
    verb = "were taken out by clean" if outcome.what == CLEANED else f"were {outcome.what}"
    return f"rules applied by {outcome.who} {verb} at {moment}"


def _read(kind: str) -> dict[str, Any] | None:
    try:
        found = json.loads(files.read_bounded(control.path_of(kind)))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise NotPermitted("this needs root") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(kind, error) from error
    return found if isinstance(found, dict) else {}


def _unreadable(kind: str, error: Exception) -> Unconfirmed:
    # Not: remove it. The process that goes back would, and nobody could confirm any more.
    text = f"{control.path_of(kind)} cannot be read: {error}"
    return Unconfirmed(text, hint="istio-hostagent clean takes everything out")


def _write(kind: str, value: Record | Outcome) -> None:
    files.write_atomically(control.path_of(kind), json.dumps(value._asdict()).encode())


def _namespace() -> int:
    """The network namespace by a number that no other one gets; 0 where the kernel has none.

    Inodes of namespaces that are gone are given out again. Not the boot: systemd-nspawn shows
    another boot id to its units than to who enters, and /run is empty after a boot.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        try:
            cookie = made.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:  # before Linux 5.14
            return 0
    return int.from_bytes(cookie, "little")
