"""One formatter: systemd priority prefix, sentence, then the fields as KEY=value; to stderr."""

import logging
import os

from ..host import errorstream

# sd-daemon(3): SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG.
PACKAGE = __name__.split(".")[0]
PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class Formatter(logging.Formatter):
    """The prefix only where the journal reads it."""

    def __init__(self, *, has_prefix: bool) -> None:
        """`has_prefix`: standard error is the journal."""
        super().__init__()
        self._has_prefix = has_prefix

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback of a bug behind it."""
        words = [record.getMessage()]
        fields = getattr(record, "fields", {})
        words += [f"{name}={_quoted(str(value))}" for name, value in fields.items()]
        text = " ".join(words)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        priority = PRIORITIES.get(record.levelno, 6)
        prefix = f"<{priority}>" if self._has_prefix else f"{record.levelname.lower()}: "
        return "\n".join(prefix + line for line in text.splitlines())


def _quoted(value: str) -> str:
    if value and not any(mark in value for mark in ' "\n\t='):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def set_up(level: int = logging.INFO) -> None:
    """Send every logger of ours to standard error, which nobody waits for."""
    handler = logging.StreamHandler(errorstream.shared())
    handler.setFormatter(Formatter(has_prefix="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak up from warnings on: watchdog would log the writing of the log.
    root.setLevel(logging.WARNING)
    logging.getLogger(PACKAGE).setLevel(level)
