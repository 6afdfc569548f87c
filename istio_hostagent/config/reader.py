"""Typed access to what the files set: a value, its fallback or its default.

Not here: which values a `Config` is made of (`build`). Reading the same key twice gives the same
value and the same problem.
"""

import re
from collections.abc import Iterator
from typing import TypeVar

from ..errors import Problem
from . import endpoints, layers, lists, settings
from .setting import Setting

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
        self.uncaptured: set[str] = set()  # outbound, inbound: said to capture nothing

    def find(self, key: str) -> layers.Origin | None:
        """The assignment that counts, unless its text is empty, which means the default."""
        sets = self.history.get(key)
        return sets[-1] if sets and sets[-1].value.strip() else None

    def find_source(self, key: str) -> tuple[str, layers.Origin] | None:
        """What counts for a key: itself, or the key that stands in for it, and where it is set."""
        origin = self._find_counting(key)
        while origin is None and key in settings.FALLBACKS:
            key = settings.FALLBACKS[key]
            origin = self._find_counting(key)
        return (key, origin) if origin is not None else None

    def _find_counting(self, key: str) -> layers.Origin | None:
        return None if self.find_preferred(key) else self.find(key)

    def find_preferred(self, key: str) -> str:
        """The key because of which this one does not count, or nothing."""
        preferred = settings.YIELDING.get(key, "")
        origin = self.find(preferred)
        if origin is None or endpoints.is_classic_pilot(origin.value):
            return ""
        return preferred

    def render_default(self, setting: Setting[object]) -> str:
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

    def read(self, setting: Setting[T]) -> T:
        """The value of one key, else of the key that stands in for it, else the default."""
        source = self.find_source(setting.key)
        if source is None:
            return self._read_default(setting)
        key, origin = source  # a key and its fallback are of one kind: this row reads both
        try:
            value = setting.parse(origin.value)
        except lists.EmptyNetwork as error:
            self.warn(origin, f"{key}: {error}")
            return setting.parse(lists.fill_holes(origin.value))
        except lists.EmptyItem as error:
            self.refuse_since(key, origin, str(error))
            return setting.parse(lists.fill_holes(origin.value))
        except ValueError as error:
            self._refuse_value(key, origin, str(error))
            return self._read_default(setting)
        if setting.may_come_from(origin.trust, value) or value == self._read_default(setting):
            return value
        self.refuse_untrusted(key, origin)
        return self._read_default(setting)

    def _read_default(self, setting: Setting[T]) -> T:
        """The default; a key that it is made of is refused where it makes no value of this one."""
        text = self.render_default(setting)
        try:
            return setting.parse(text)
        except ValueError as error:
            for key, origin in self._sources(setting):
                message = f"{setting.key} is not set and would be {text}: {error}"
                self.refuse_since(key, origin, message)
        return setting.parse(self.render_default(setting))

    def _sources(self, setting: Setting[object]) -> Iterator[tuple[str, layers.Origin]]:
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

    def refuse_whole(self, message: str) -> None:
        """Record a problem that no line has set."""
        self.problems.append(Problem(self._own_file, 0, message))

    def refuse_since(self, key: str, origin: layers.Origin, message: str) -> None:
        """As `refuse`, for what earlier versions took: what was accepted stays, with a warning."""
        if self.is_accepted:
            self.refused.add(key)
            self.warn(origin, f"{key}: {message}")
        else:
            self.refuse(key, origin, message)

    def refuse_untrusted(self, key: str, origin: layers.Origin) -> None:
        """Record that `key` may not be set by this file; as for its text, see `Setting`."""
        message = f"counts only from a file that only root can write; {origin.trust.detail}"
        if self._own_file and origin.is_made_up:
            message += f": write the value itself into {self._own_file}"
        elif self._own_file and origin.file != self._own_file:
            message += f": move the line to {self._own_file}"
        self._refuse_value(key, origin, message)

    def _refuse_value(self, key: str, origin: layers.Origin, message: str) -> None:
        record = self.refuse_since if key in settings.ONCE_WITHOUT_EFFECT else self.refuse
        record(key, origin, message)

    def warn_of_nothing(self, origin: layers.Origin, why: str, way: str) -> None:
        """Warn that for this reason nothing outbound, or nothing inbound, is captured."""
        self.uncaptured.add(way)
        self.warn(origin, f"{why}: nothing {way} is captured")

    def warn(self, origin: layers.Origin, message: str) -> None:
        """Record a warning at the line of an assignment."""
        layers.warn(self.warnings, Problem(origin.file, origin.line, message))
