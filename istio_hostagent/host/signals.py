"""Signals as events: the handler only enqueues (signalfd would need a library, this does not)."""

import os
import signal
from collections.abc import Callable, Iterable
from typing import TypeVar

from . import mailbox

Event = TypeVar("Event")


def deliver(
    numbers: Iterable[int],
    inbox: mailbox.Mailbox[Event],
    make: Callable[[int], Event],
    *,
    ended: Callable[[], None] | None = None,
) -> None:
    """From now on each of these signals becomes an event; call from the main thread.

    `ended` is called after a child has ended, ours or one that became ours; None: nobody cares.
    The interpreter writes the number of a signal to the wake-up descriptor (signal(2) handlers run
    late in Python, the descriptor does not).
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _ignore)
    if ended is not None:
        signal.signal(signal.SIGCHLD, _ignore)

    def read() -> None:
        for number in os.read(read_end, 64):
            if number != signal.SIGCHLD:
                inbox.post(make(number))
            elif ended is not None:
                ended()

    inbox.watch(read_end, read)


def _ignore(_number: int, _frame: object) -> None:
    """A handler must exist for the wake-up descriptor to be written; SIG_IGN would discard."""
