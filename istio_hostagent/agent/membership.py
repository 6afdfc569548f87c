"""Joining as a transaction, staying and leaving: the rules together with their marks on disk.

Rules for editing: for each line, what does traffic do if the agent is killed right there, or if
the disk is full? A mark comes before the rules that it stands for, and goes after them.
"""

import logging

from ..errors import KernelBusy
from ..redirect import guard
from ..supervise import child
from . import certificate, fields, join, places, reload, state, survey

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
STORED_SOCKET = "nft"
NOT_READY = "the proxy was not ready"
# Somebody who changes the rules all the time keeps ours from going out for so many tries.
LEAVE_TRIES = 10
# Codes that say that asking again gives no other answer.
FINAL_CODES = frozenset({"certificate-refused", "certificate-untrusted"})


class Membership:
    """Puts the rules in and takes them out, as one who joins, has joined, or leaves."""

    def __init__(self, parts: state.Parts) -> None:
        """Look whether this host has joined; nothing is changed yet."""
        self._parts = parts
        self._attempts = 0
        self._guard = ""
        parts.is_joined = parts.marks.has(places.MARKER)
        parts.is_attempting = not parts.is_joined and parts.marks.has(places.ATTEMPT)

    def apply(self) -> None:
        """Put the rules in; on a host that has not joined a mark says so first."""
        parts = self._parts
        if parts.is_joined:
            if parts.redirection.apply():
                self._keep()
            return
        # A kill from here on leaves rules on a host that has not joined: the next start sees the
        # attempt's mark and takes them out.
        if not parts.marks.write(places.ATTEMPT):
            self._failed(parts.marks.trouble)
            return
        parts.is_attempting = True
        if not parts.redirection.apply():
            self.take_out()

    def _keep(self) -> bool:
        """Let the rules outlive us: the guard for early boot, the owning socket with systemd."""
        parts = self._parts
        text = guard.render_guard(parts.redirection.desired)
        if text != self._guard:
            if not parts.marks.write(places.GUARD, text):
                return False
            self._guard = text
        if parts.kernel.is_owner and not parts.is_stored:
            parts.notifier.store(STORED_SOCKET, parts.kernel.socket.fileno())
            parts.is_stored = True
        return True

    def _accept(self) -> bool:
        parts = self._parts
        return parts.marks.keep(reload.ACCEPTED, parts.configuration.accept)

    def mark(self) -> None:
        """Joined: from now on rules go in first and stay."""
        parts = self._parts
        if not (self._keep() and self._accept() and parts.marks.write(places.MARKER)):
            self.withdraw()
            return
        parts.marks.remove(places.ATTEMPT)
        parts.is_attempting = False
        parts.is_joined = True
        parts.attempt_trouble = ""
        self._attempts = 0
        held = parts.certificate.held
        extra = fields.of(IDENTITY=held.identity if held is not None else "")
        logger.info("joined the mesh", extra=extra)

    def withdraw(self) -> None:
        """An attempt to join failed: the network goes back to what it was."""
        parts = self._parts
        trouble = parts.proxy.trouble or parts.redirection.trouble_text or parts.marks.trouble
        self.take_out()
        parts.proxy.child.stop()
        self._failed(trouble or NOT_READY)

    def _failed(self, trouble: str) -> None:
        self._attempts += 1
        self._parts.attempt_trouble = trouble
        pause = min(FIRST_PAUSE_S * 2 ** min(self._attempts - 1, 4), LONGEST_PAUSE_S)
        self._parts.attempt_at = self._parts.clock.monotonic() + pause
        logger.error(
            "could not join; the rules are out again",
            extra=fields.of(DETAIL=trouble, ATTEMPT=self._attempts),
        )

    def take_out(self) -> None:
        """Take the rules of an attempt out; one that cannot be taken out stays an attempt."""
        parts = self._parts
        if parts.redirection.withdraw():
            self._guard = ""
            parts.marks.remove(places.GUARD)
            parts.marks.remove(places.ATTEMPT)
            parts.is_attempting = False

    def settle(self) -> bool:
        """On a joined host: accept what works; True if it went back to what worked before."""
        parts = self._parts
        if not parts.is_joined:
            return False
        now = survey.situation(parts)
        has_worked = now.rules is join.Rules.PROVEN and now.is_complete
        if has_worked and parts.clock.monotonic() >= parts.marks.retry_at:
            self._keep()
            if now.proxy is child.State.READY and self._accept():
                parts.certificate.release_others()
        return bool(reason := self._refusal(now)) and parts.configuration.revert(reason)

    def _refusal(self, situation: join.Situation) -> str:
        """Why what is in force does not hold although what worked before would; or nothing."""
        parts = self._parts
        now, before = parts.configuration.in_force, parts.configuration.worked
        if now is None or before is None or now == before:
            return ""
        trouble = parts.redirection.trouble
        is_new = now.redirection != before.redirection
        if is_new and trouble is not None and not isinstance(trouble, KernelBusy):
            return trouble.text
        if parts.proxy.bootstrap is join.Check.BAD:
            return parts.proxy.trouble
        # One that is late may only wait for its control plane: going back would gain nothing then,
        # unless the one before did serve.
        is_its_fault = parts.proxy.child.failures > 0 or parts.proxy.child.has_served
        if situation.is_attempt_over and is_its_fault and parts.proxy.would_differ(before):
            return parts.proxy.trouble or NOT_READY
        if now.identity != before.identity and not parts.certificate.is_held:
            return self._certificate_refusal(parts.certificate)
        return ""

    def _certificate_refusal(self, part: certificate.CertificatePart) -> str:
        if part.trouble is None:
            return ""
        # A silent CA is waited for, unless that keeps a proxy from being started.
        is_final = part.trouble.code in FINAL_CODES or self._parts.proxy.child.pid is None
        return part.trouble.text if is_final else ""

    def leave(self) -> None:
        """SIGTERM: an owned table is systemd's to end (design invariant 8); else take all out."""
        parts = self._parts
        if parts.kernel.is_owner:
            return
        for _ in range(LEAVE_TRIES):
            if parts.redirection.withdraw():
                break
        else:
            # The next start takes them out; `clean` does so at once.
            parts.marks.write(places.ATTEMPT)
            parts.marks.remove(places.MARKER)
            logger.error("the rules could not be taken out", extra=fields.of(CODE="not-left"))
            return
        for name in (places.MARKER, places.ATTEMPT, places.GUARD):
            parts.marks.remove(name)
