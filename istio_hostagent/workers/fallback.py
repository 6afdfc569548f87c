"""Go back to what was there before, unless somebody confirms what was applied instead.

Argument: the id of the record (`host.unconfirmed`). Runs detached from whoever applied
(`host.detached`), in a session of its own, until that is decided: after a confirmation it ends; at
the end of the time, or on SIGTERM, it goes back. What fails is tried again for ever, and told to
`status`. It holds in memory what it goes back to. What it says goes to the journal, where there is
one.
"""

import contextlib
import signal
import sys

from ..errors import HostAgentError, KernelBusy, Unconfirmed, describe
from ..host import control, fallback, nftables, unconfirmed
from ..redirect import model

# A confirmation is noticed so soon; going back looks for it once more.
_LOOK_S = 1.0
# What is written down at the beginning comes some milliseconds later.
_BEGIN_S = 0.01
_LONGEST_PAUSE_S = 30.0
# Verbs hold the lock of the namespace for less.
_LOCK_S = 10.0


def main() -> None:
    """Wait and go back; one that is started again goes on where the one before was killed."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    record_id = sys.argv[2]
    try:
        before = fallback.load()
    except Unconfirmed as error:
        # Decided while nobody waited, or damaged; nobody is told that somebody waits.
        _say(error.text)
        return
    watch = unconfirmed.Watch(record_id)
    record = _await_record(record_id)
    if record is None:
        return
    while record.left_s > 0 and _waits(record):
        if signal.sigtimedwait({signal.SIGTERM}, min(max(record.left_s, 0.0), _LOOK_S)):
            break
    pause_s = _LOOK_S
    # Before the lock is taken: who has it may be waiting for the end of this process.
    while _waits(record) and not _try_to_go_back(record, before, watch):
        _pause(record, pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _pause(record: unconfirmed.Record, seconds: float) -> None:
    """Wait, but no longer than until somebody decides: the next such process waits for our end."""
    end = unconfirmed.now() + seconds
    while (left := end - unconfirmed.now()) > 0 and _waits(record):
        if signal.sigtimedwait({signal.SIGTERM}, min(left, _LOOK_S)):
            return


def _await_record(record_id: str) -> unconfirmed.Record | None:
    """Wait for what is written down once this process is seen; None: whoever applied is gone."""
    lock = control.Lock()
    try:
        is_alone = False
        while True:
            record = unconfirmed.find()
            if record is not None and record.id == record_id:
                return record
            if is_alone:
                return None
            is_alone = lock.take(within_s=_BEGIN_S)
    finally:
        lock.close()


def _waits(record: unconfirmed.Record) -> bool:
    """Whether nobody has decided; what cannot be read, or was removed by hand, decides nothing."""
    try:
        found, outcome = unconfirmed.find(), unconfirmed.find_outcome()
    except (HostAgentError, OSError):
        return True
    if found is not None:
        return found.id == record.id
    return outcome is None or outcome.id != record.id


def _go_back(record: unconfirmed.Record, before: model.Observed) -> None:
    lock = control.Lock()
    try:
        if not lock.take(within_s=_LOCK_S):
            raise KernelBusy("another agent or verb works in this network namespace")
        if not _waits(record):
            return
        with contextlib.closing(nftables.NftKernel(is_owner=False)) as kernel:
            fallback.go_back(before, kernel)
        unconfirmed.decide(record, unconfirmed.TAKEN_BACK)
        _say(f"rules applied by {record.who}, which nobody confirmed, were taken back")
    finally:
        lock.close()


def _try_to_go_back(
    record: unconfirmed.Record, before: model.Observed, watch: unconfirmed.Watch
) -> bool:
    """Go back, and say whether nothing is left to do; why not is told to whoever asks."""
    try:
        _go_back(record, before)
    except HostAgentError as error:
        text = error.text
    except OSError as error:
        text = describe(error)
    else:
        return True
    with contextlib.suppress(OSError):  # /run may be full: going back matters more
        watch.tell(text)
    _say(f"rules applied by {record.who} cannot be taken back: {text}")
    return False


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
