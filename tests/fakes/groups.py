"""The control groups of a host's units in memory."""

from collections.abc import Callable, Sequence

from istio_hostagent.config import model


class FakeGroups:
    """Like the real one it gives a unit that is started again another number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # by path
        self._last = 100
        self._followed = model.Units()
        self.tell: Callable[[], object] = lambda: None
        self.last_error = ""

    @property
    def running(self) -> set[int]:
        """The numbers of all that run."""
        return {*self._numbers.values()}

    def start(self, path: str) -> None:
        """A unit starts, or starts again, in a group at this path."""
        self._last += 1
        self._numbers[path] = self._last
        self._changed(path)

    def stop(self, path: str) -> None:
        """It ends, if it runs."""
        self._numbers.pop(path, None)
        self._changed(path)

    def _changed(self, path: str) -> None:
        is_named = any(_is_at(unit, path) for unit in self._followed.exclude)
        if not self.last_error and (is_named or self._followed.include):
            self.tell()

    def follow(self, units: model.Units, own: str = "") -> tuple[model.ControlGroup, ...]:
        self._followed = units
        return self.look(units, own)

    def look(self, units: model.Units, own: str = "") -> tuple[model.ControlGroup, ...]:
        named = (*self._find(units.exclude, is_captured=False), *self._find(units.include))
        if not units.include:
            return named
        captured = {each.path for each in named if each.is_captured} | {own}
        others = ((path, n) for path, n in self._numbers.items() if path not in captured)
        return (*named, *(model.ControlGroup("", path, number) for path, number in others))

    def _find(
        self, units: Sequence[str], *, is_captured: bool = True
    ) -> tuple[model.ControlGroup, ...]:
        return tuple(
            model.ControlGroup(unit, path, number, is_captured)
            for unit in units
            for path, number in self._numbers.items()
            if _is_at(unit, path)
        )


def _is_at(unit: str, path: str) -> bool:
    return unit in (path, path.rpartition("/")[2])
