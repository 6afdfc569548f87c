"""What the demo prints: chapters, lines with the time since the start, and the closing table.

Colours are for terminals only, and not where NO_COLOR is set.
"""

import os
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 96
_INDENT = 8


@dataclass(frozen=True)
class Row:
    """One promise of the closing table. `figure` says how well it held, or why it did not."""

    what: str
    is_held: bool
    figure: str


class Screen:
    """Standard output. Everything is there as soon as it is said."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._is_coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def chapter(self, title: str, *text: str) -> None:
        """Begin a part with a title and what it is about."""
        self._print("\n" + self._paint("1", title))
        for paragraph in text:
            self._print(textwrap.fill(paragraph, WIDTH))

    def step(self, text: str, *, at: float | None = None) -> None:
        """Tell of something that happens now, or happened at `at` (monotonic seconds)."""
        moment = (at if at is not None else time.monotonic()) - self._began
        first, *more = text.splitlines()
        self._print(f"{self._paint('2', f'{moment:6.2f}')}  {first}")
        for line in more:
            self.note(line)

    def note(self, text: str) -> None:
        """Add a line that has no time of its own."""
        self._print(" " * _INDENT + text)

    def listing(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Show a small file: its lines, each with what it means."""
        self.note(title)
        width = max(len(line) for line, _ in rows)
        for line, meaning in rows:
            self.note(f"    {line:<{width}}   {self._paint('2', meaning)}")

    def table(self, rows: Sequence[Row]) -> None:
        """Show what held."""
        width = max(len(row.what) for row in rows)
        self._print("\n" + self._paint("1", f"{'what':<{width}}  held  figure"))
        for row in rows:
            held = self._paint("32", "yes ") if row.is_held else self._paint("31", "NO  ")
            first, *more = row.figure.splitlines() or [""]
            self._print(f"{row.what:<{width}}  {held}  {first}")
            for line in more:
                self._print(" " * (width + 8) + line)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self._print(text)

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._is_coloured else text

    def _print(self, text: str) -> None:
        print(text, flush=True)
