"""Lines in the journal that belong to another unit of ours, while that one is active.

`systemctl status UNIT` shows what a process of root's says about UNIT by OBJECT_SYSTEMD_UNIT=
(systemd, src/shared/logs-show.c, add_matches_for_unit), and so does `journalctl -u`, which
knows no alias: a line may have the field several times. It never waits: a line that is not taken
is lost, as it is one that is in our own log as well.
Source: systemd.journal-fields(7).
"""

import logging
import os

from . import journal

# A link that systemd keeps while a unit is active (src/core/unit.c, unit_export_invocation_id).
_ACTIVE = "/run/systemd/units/invocation:"
_PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4}
_INFO = 6


class UnitJournal(logging.Handler):
    """Says what it is given in the name of one unit."""

    def __init__(self, unit: str, identifier: str, *names: str) -> None:
        """`identifier`: what the journal shows in front of lines; `names`: aliases of `unit`."""
        super().__init__()
        self._unit = unit
        self._names = (unit, *names)
        self._identifier = identifier

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line, if the unit is active."""
        if not os.path.lexists(_ACTIVE + self._unit):
            return
        fields = {
            "MESSAGE": " ".join(record.getMessage().split()),
            "PRIORITY": str(_PRIORITIES.get(record.levelno, _INFO)),
            "SYSLOG_IDENTIFIER": self._identifier,
        }
        journal.send(fields, more=[("OBJECT_SYSTEMD_UNIT", name) for name in self._names])
