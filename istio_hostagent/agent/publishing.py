"""What users who are not root get to see of this host, kept fresh: no secret, no word of others.

A part of the report of `status`, in its words; of what is wrong the names, since texts may have
last lines of programs in them. `summary` has: systemd shows it to everybody as well.
Not here: the file (`host.published`), and what readers make of it (`cli.check`, the exporter).
"""

import logging
from typing import Any

from ..errors import describe
from ..host import ports, published
from ..lifecycle.report import Report
from . import components, fields, status

logger = logging.getLogger(__name__)

_WHOLE = (
    *("version", "product", "host", "pid", "started", "in_control", "in_mesh", "joined"),
    *("phase", "since", "summary", "encryption"),
    "captured_connections",
)
_FIELDS = {
    "redirection": ("state", "managed", "mode", "inbound", "outbound", "proven_at", "repaired"),
    "certificate": (
        *("state", "identity", "serial", "not_before", "not_after", "next_attempt"),
        *("renewal", "failing_since", "failures", "obtained", "renewed_in"),
    ),
    "proxy": ("kind", "state", "starts"),
    "configuration": ("state", "files"),
    "control_plane": ("state", "away_since", "connected_since"),
    "served_certificate": ("state",),
    "outputs": ("state",),
    "renew_hook": ("state", "failures"),
}


# After a failure it is written again no sooner, and at the first turn after that.
AGAIN_S = 1.0


class Publishing:
    """Writes it when it has changed, and now and then."""

    def __init__(self, parts: components.Components, file: ports.Published) -> None:
        """Nothing is written yet."""
        self._parts = parts
        self._file = file
        self._seen: object = None
        self._written_at = 0.0
        self._last_error = ""

    def tell(self, words: Report) -> None:
        """After each turn."""
        now = self._parts.clock.monotonic()
        seen = self._look(words)
        if seen == self._seen and now < self._written_at + published.REFRESH_S:
            return
        self._seen, self._written_at = seen, now
        if not self._change(lambda: self._file.write(select(status.report(self._parts)))):
            # What is there says how this host stood before.
            self._change(self._file.remove)
            self._written_at = now - published.REFRESH_S + AGAIN_S
        else:
            self._last_error = ""

    def end(self) -> None:
        """The agent ends."""
        self._change(self._file.remove)

    def _look(self, words: Report) -> object:
        """What differs when the report may; it costs little, since storms bring many turns."""
        parts, life = self._parts, self._parts.life
        redirection, child = parts.redirection, parts.proxy.child
        return (
            (words, life.phase, life.told, life.disk.last_error, life.attempt.last_error),
            (redirection.value.rules, redirection.value.last_error, redirection.counts),
            (parts.holding.value.last_error, parts.certificate.value, parts.certificate.obtained),
            (child.state, child.starts, parts.proxy.last_error, child.rounds.control_plane),
            parts.serving.value.shown,
            tuple((each.part, each.code) for each in status.find_causes(parts)),
        )

    def _change(self, change: Any) -> bool:
        try:
            change()
        except OSError as error:
            text = f"users who are not root see nothing of this host: {describe(error)}"
            if text != self._last_error:
                logger.warning("%s", text, extra=fields.of(CODE="not-published"))
            self._last_error = text
            return False
        return True


def select(report: dict[str, Any]) -> dict[str, Any]:
    """Of a report what is for everybody."""
    parts = {name: {key: report[name][key] for key in keys} for name, keys in _FIELDS.items()}
    failed = sum(bool(each["last_error"]) for each in report["outputs"]["files"])
    causes = [{"part": each["part"], "code": each["code"]} for each in report["causes"]]
    parts["outputs"]["failed"] = failed
    return {name: report[name] for name in _WHOLE} | parts | {"causes": causes}
