"""The state directory: marks, the guard of early boot, and the texts that have worked or did not.

Everything is written whole or not at all. A full or read-only disk must not take the redirection's
keeper away: a failure is a text, never an exception. What a mark means is not here.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

from ..config import model
from ..errors import describe
from ..host import files, ports
from ..lifecycle.life import Life
from ..lifecycle.steps import Step
from . import fields, part, places, reload

logger = logging.getLogger(__name__)


class StateDirectory(part.Part):
    """The files of the state directory, by name."""

    def __init__(self, disk: ports.StateFiles, clock: ports.Clock) -> None:
        """Start with nothing that failed."""
        self._disk = disk
        self._clock = clock
        self._logged = ""

    @property
    def steps(self) -> Mapping[Step, part.Perform]:
        """The marks; what else is written needs more than this directory (`performer`)."""
        write, remove = self.write, self.remove
        return {
            Step.MARK_ATTEMPT: functools.partial(write, places.ATTEMPT),
            Step.UNMARK_ATTEMPT: functools.partial(remove, places.ATTEMPT),
            Step.MARK_JOINED: functools.partial(write, places.MARKER),
            Step.UNMARK_JOINED: functools.partial(remove, places.MARKER),
            Step.REMOVE_GUARD: functools.partial(remove, places.GUARD),
            Step.FORGET_REFUSED: functools.partial(remove, reload.REFUSED),
        }

    def obstacle(self, life: Life) -> str:
        """What could not be written down."""
        return life.disk.last_error

    def code(self, _life: Life) -> str:
        """The disk takes nothing."""
        return "not-saved"

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return self._disk.has(name)

    def read(self, name: str) -> str | None:
        """A short text; None if it is not there or cannot be read."""
        try:
            return self._disk.read(name, files.MAX_BYTES).decode(errors="replace")
        except OSError:
            return None

    def load(self, name: str, sources: places.Sources) -> tuple[model.Layer, ...]:
        """The texts kept under this name; none if there are none of these files."""
        try:
            data = self._disk.read(name, reload.MAX_ACCEPTED)
        except OSError:
            return ()
        return reload.parse_layers(data, sources)

    def save(self, name: str, layers: Sequence[model.Layer]) -> str:
        """Keep texts; why that failed, or nothing."""
        data = reload.render_layers(layers)
        return self._change(name, lambda: self._disk.write(name, data, mode=0o600))

    def write(self, name: str, text: str = "") -> str:
        """Write a file, with the time if there is no text; why that failed, or nothing."""
        data = (text or f"{fields.moment(self._clock.now())}\n").encode()
        return self._change(name, lambda: self._disk.write(name, data, mode=0o644))

    def remove(self, name: str) -> str:
        """Remove a file; why it is still there, or nothing."""
        return self._change(name, lambda: self._disk.remove(name))

    def _change(self, name: str, change: Callable[[], object]) -> str:
        try:
            change()
        except OSError as error:
            text = f"cannot change {self._disk.directory}/{name}: {describe(error)}"
            if self._logged != text:
                logger.warning("%s", text, extra=fields.of(CODE="not-saved"))
            self._logged = text
            return text
        self._logged = ""
        return ""
