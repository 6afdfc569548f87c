"""Ctrl-C and its kin as one exception, which never arrives while something is being made.

A process or namespace that is made and not yet written down would be left behind; `held` puts the
signal off until it is. While everything is taken down, signals are ignored, also by the programs
that do the work: Ctrl-C twice must not leave half of it.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asks for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """The handlers of SIGNALS. A context manager; for the main thread."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._pending = 0
        self._depth = 0

    def __enter__(self) -> "Interruption":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """From now on nothing interrupts."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Put signals off until the block is left, whatever became of it."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._pending and not self._depth:
                # Instead of an error: Ctrl-C reaches the programs that the block runs as well.
                raise Interrupted(self._pending)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        # Only the first one counts: the way out is not interrupted.
        if self._pending:
            return
        self._pending = number
        if not self._depth:
            raise Interrupted(number)
