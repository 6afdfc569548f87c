"""watchdog's observer, without what it would remember for ever; only `watch` loads this."""

from typing import Any

from watchdog.observers import api, inotify


class Emitter(inotify.InotifyEmitter):  # type: ignore[misc] # watchdog 2.2 has no types
    """The events of one directory, the same ones as watchdog's own gives."""

    def queue_events(self, timeout: float, **options: Any) -> None:
        """Hand the next event on, and let go of the renames that were seen."""
        super().queue_events(timeout, **options)
        # watchdog keeps every name that a file was moved away from (2.2 and 6.0): 300 bytes for
        # each configuration that is renamed into place. It looks them up again only where the
        # directory moved is itself watched, and pairs the two halves of a move by other means.
        buffer = self._inotify
        if buffer is not None:  # not stopped meanwhile
            buffer._inotify.clear_move_records()


def make_observer() -> Any:
    """A new observer; it has to be started."""
    return api.BaseObserver(emitter_class=Emitter)
