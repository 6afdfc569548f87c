"""Typed access to what the files set: a value, its stand-in or its default.

Not here: which values a `Config` is made of (`build`). Reading the same key twice gives the same
value and the same problem.
"""

import re
from collections.abc import Iterator
from typing import TypeVar

from ..errors import Problem
from . import fields, layers, settings

T = TypeVar("T")
_NAMED = re.compile("<([A-Z_]+)>")


class Reader:
    """Reads one set of layers; in place of a value that has a problem it gives the default."""

    def __init__(
        self, found: layers.Collected, own_file: str = "", *, is_accepted: bool = False
    ) -> None:
        """Read what `layers.collect` found, and add to its problems and warnings.

        `own_file`: where a key can stand that counts only from a file that only root can write.
        `is_accepted`: as for `build.build_config`.
        """
        self.is_accepted = is_accepted
        self._own_file = own_file
        self.history = found.history
        self.problems = found.problems
        self.warnings = found.warnings
        self.refused: set[str] = set()

    def find(self, key: str) -> layers.Origin | None:
        """The assignment that counts, unless its text is empty, which means the default."""
        sets = self.history.get(key)
        return sets[-1] if sets and sets[-1].value.strip() else None

    def render_default(self, setting: settings.Setting[object]) -> str:
        """The text of the default, with the values, or the defaults, of the keys that it names."""
        text, mark, rest = setting.default.partition("<")
        while mark:
            key, _, rest = rest.partition(">")
            row = next(row for row in settings.SETTINGS if row.key == key)
            self.read(row)  # a refused value must not spoil the default made from it
            origin = None if key in self.refused else self.find(key)
            text += origin.value.strip() if origin else self.render_default(row)
            literal, mark, rest = rest.partition("<")
            text += literal
        return text

    def read(self, setting: settings.Setting[T]) -> T:
        """The value of one key, else of the key that stands in for it, else the default."""
        key = setting.key
        origin = self.find(key)
        stand_in = settings.FALLBACKS.get(key)
        if origin is None and stand_in is not None:
            # A key and its stand-in are of one kind, so the row of the first reads both.
            key, origin = stand_in, self.find(stand_in)
        if origin is None:
            return self._read_default(setting)
        try:
            value = setting.parse(origin.value)
        except fields.EmptyNetwork as error:
            self.warn(origin, f"{key}: {error}")
            return setting.parse(fields.fill_holes(origin.value))
        except fields.EmptyItem as error:
            self.refuse_since(key, origin, str(error))
            return setting.parse(fields.fill_holes(origin.value))
        except ValueError as error:
            self.refuse(key, origin, str(error))
            return self._read_default(setting)
        if setting.may_come_from(origin.trust, value) or value == self._read_default(setting):
            return value
        self.refuse_untrusted(key, origin)
        return self._read_default(setting)

    def _read_default(self, setting: settings.Setting[T]) -> T:
        """The default; a key that it is made of is refused where it makes no value of this one."""
        text = self.render_default(setting)
        try:
            return setting.parse(text)
        except ValueError as error:
            for key, origin in self._sources(setting):
                message = f"{setting.key} is not set and would be {text}: {error}"
                self.refuse_since(key, origin, message)
        return setting.parse(self.render_default(setting))

    def _sources(self, setting: settings.Setting[object]) -> Iterator[tuple[str, layers.Origin]]:
        """The keys that are set and from which a default is made."""
        for key in _NAMED.findall(setting.default):
            origin = self.find(key)
            if origin is not None and key not in self.refused:
                yield key, origin
            else:
                yield from self._sources(next(row for row in settings.SETTINGS if row.key == key))

    def refuse(self, key: str, origin: layers.Origin, message: str) -> None:
        """Record a problem of `key` at the line that set it."""
        self.refused.add(key)
        self.problems.append(Problem(origin.file, origin.line, f"{key}: {message}"))

    def refuse_since(self, key: str, origin: layers.Origin, message: str) -> None:
        """As `refuse`, for what earlier versions took: what was accepted stays, with a warning."""
        if self.is_accepted:
            self.refused.add(key)
            self.warn(origin, f"{key}: {message}")
        else:
            self.refuse(key, origin, message)

    def refuse_untrusted(self, key: str, origin: layers.Origin) -> None:
        """Record that `key` may not be set by this file."""
        message = f"counts only from a file that only root can write; {origin.trust.detail}"
        if self._own_file and origin.is_made_up:
            message += f": write the value itself into {self._own_file}"
        elif self._own_file and origin.file != self._own_file:
            message += f": move the line to {self._own_file}"
        self.refuse(key, origin, message)

    def warn(self, origin: layers.Origin, message: str) -> None:
        """Record a warning at the line of an assignment."""
        layers.warn(self.warnings, Problem(origin.file, origin.line, message))
