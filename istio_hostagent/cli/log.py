"""One formatter: systemd priority prefix, sentence, then the fields as KEY=value; to stderr.

In the journal each field is a field of the entry as well, ISTIO_HOSTAGENT_CODE and so on.
"""

import logging
import os
from typing import Any

from ..host import errorstream, journal, unitjournal

# sd-daemon(3): SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG.
PACKAGE = __name__.split(".")[0]
# The unit, and the name by which people ask for it.
CLASSIC_UNIT = "istio-hostagent-node-agent.service"
CLASSIC_NAME = "istio-auth-node-agent.service"
PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class Formatter(logging.Formatter):
    """The prefix only where the journal reads it."""

    def __init__(self, *, has_prefix: bool) -> None:
        """`has_prefix`: standard error is the journal."""
        super().__init__()
        self._has_prefix = has_prefix

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback of a bug behind it."""
        text = self.format_line(record)
        priority = PRIORITIES.get(record.levelno, 6)
        prefix = f"<{priority}>" if self._has_prefix else f"{record.levelname.lower()}: "
        return "\n".join(prefix + line for line in text.splitlines())

    def format_line(self, record: logging.LogRecord) -> str:
        """The same without anything in front."""
        words = [record.getMessage()]
        fields = getattr(record, "fields", {})
        words += [f"{name}={_quoted(str(value))}" for name, value in fields.items()]
        text = " ".join(words)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class Journal(logging.StreamHandler[Any]):
    """Sends entries with fields; what the journal does not take so goes to standard error."""

    def __init__(self) -> None:
        """Nothing is opened: whoever restarts the journal takes nothing from us."""
        super().__init__(errorstream.shared())
        self._plain = Formatter(has_prefix=False)
        self.setFormatter(Formatter(has_prefix=True))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one entry."""
        fields = {
            "MESSAGE": self._plain.format_line(record),
            "PRIORITY": str(PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "istio-hostagent",
        }
        found = getattr(record, "fields", {})
        fields |= {f"ISTIO_HOSTAGENT_{name}": str(value) for name, value in found.items()}
        if not journal.send(fields):
            super().emit(record)


def _quoted(value: str) -> str:
    if value and not any(mark in value for mark in ' "\n\t='):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def set_up(level: int = logging.INFO) -> None:
    """Send every logger of ours to standard error, which nobody waits for."""
    is_under_systemd = journal.is_ours(os.environ)
    handler: logging.StreamHandler[Any] = Journal()
    if not is_under_systemd:
        handler = logging.StreamHandler(errorstream.shared())
        handler.setFormatter(Formatter(has_prefix=False))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak up from warnings on: watchdog would log the writing of the log.
    root.setLevel(logging.WARNING)
    logging.getLogger(PACKAGE).setLevel(level)
    # Said in the name of the classic unit, and not in our own log a second time.
    classic = logging.getLogger(f"{PACKAGE}.identity.nodeagent")
    classic.propagate = False
    unit = unitjournal.UnitJournal(CLASSIC_UNIT, "node_agent", CLASSIC_NAME)
    classic.handlers[:] = [unit if is_under_systemd else logging.NullHandler()]
