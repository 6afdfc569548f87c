"""What an agent says on standard error, line by line, each with the moment at which it came."""

import os
import threading

from . import cost

PATIENCE_S = 20.0
_SHOWN = 5


class Log:
    """The reading end of an agent's output; a thread takes each line as it is written."""

    def __init__(self) -> None:
        """Make the pipe; the agent gets `write_end`."""
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        self._lines: list[tuple[float, str]] = []
        self._is_over = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def handed_over(self) -> None:
        """The agent has it now: close our copy of the write end."""
        os.close(self.write_end)

    def _read(self) -> None:
        with os.fdopen(self._read_end, errors="replace") as lines:
            for line in lines:
                at = cost.now_ms()
                with self._news:
                    self._lines.append((at, line.rstrip()))
                    self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def wait_for(self, text: str, *, since_ms: float, limit_s: float) -> float:
        """When a line with this text first came after `since_ms`; raises NotMeasured."""
        found = 0.0

        def look() -> bool:
            nonlocal found
            hits = (at for at, line in self._lines if at >= since_ms and text in line)
            found = next(hits, 0.0)
            return bool(found) or self._is_over

        with self._news:
            self._news.wait_for(look, limit_s)
            if not found:
                last = "; ".join(line for _, line in self._lines[-_SHOWN:])
                raise cost.NotMeasured(f"the agent did not say {text!r}; its last words: {last}")
        return found

    def complaints(self) -> list[str]:
        """The warnings and errors so far."""
        with self._news:
            lines = [line for _, line in self._lines]
        return [line for line in lines if line.startswith(("error:", "warning:"))]
