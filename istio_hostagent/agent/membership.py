"""Joining as a transaction, staying and leaving: the rules together with their marks on disk.

Rules for editing: for each line, what does traffic do if the agent is killed right there, or if
the disk is full? A mark comes before the rules that it stands for, and goes after them.
"""

import logging

from ..redirect import guard, model
from . import fields, places, reload, state

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
STORED_SOCKET = "nft"
NOT_READY = "the proxy was not ready"
# Somebody who changes the rules all the time keeps ours from going out for so many tries.
LEAVE_TRIES = 10


class Membership:
    """Puts the rules in and takes them out, as one who joins, has joined, or leaves."""

    def __init__(self, parts: state.Parts) -> None:
        """Look whether this host has joined; nothing is changed yet."""
        self._parts = parts
        self._attempts = 0
        self._guarded: model.Ruleset | None = None  # what the guard on disk stands for
        parts.is_joined = parts.marks.has(places.MARKER)
        parts.is_attempting = not parts.is_joined and parts.marks.has(places.ATTEMPT)

    def apply(self) -> None:
        """Put the rules in; on a host that has not joined a mark says so first."""
        parts = self._parts
        if parts.is_joined:
            if parts.redirection.apply():
                self.keep()
            return
        # A kill from here on leaves rules on a host that has not joined: the next start sees the
        # attempt's mark and takes them out.
        if not parts.marks.write(places.ATTEMPT):
            self._failed(parts.marks.trouble)
            return
        parts.is_attempting = True
        if not parts.redirection.apply():
            self.take_out()

    def keep(self) -> bool:
        """Let the rules outlive us: the guard for early boot, the owning socket with systemd."""
        parts = self._parts
        # On trial the guard is that of what a start would come back to.
        is_new = parts.redirection.desired is not self._guarded
        if is_new and not parts.configuration.is_on_trial:
            text = guard.render_guard(parts.redirection.desired)
            if not parts.marks.write(places.GUARD, text):
                return False
            self._guarded = parts.redirection.desired
        if parts.kernel.is_owner and not parts.is_stored:
            parts.notifier.store(STORED_SOCKET, parts.kernel.socket.fileno())
            parts.is_stored = True
        return True

    def accept(self) -> bool:
        """What is in force has worked: its texts are what a start comes back to."""
        parts = self._parts
        if not parts.marks.keep(reload.ACCEPTED, parts.configuration.accept):
            return False
        # While the files still make what was refused, that is remembered.
        return parts.configuration.loaded.is_kept or parts.marks.remove(reload.REFUSED)

    def mark(self) -> None:
        """Joined: from now on rules go in first and stay."""
        parts = self._parts
        if not (self.keep() and self.accept() and parts.marks.write(places.MARKER)):
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
            self._guarded = None
            parts.marks.remove(places.GUARD)
            parts.marks.remove(places.ATTEMPT)
            parts.is_attempting = False

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
