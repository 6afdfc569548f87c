"""A changed configuration on a host that has joined: judged, tried, and kept or taken back.

Rules for editing: what has worked stays in force, and is repaired and renewed, until everything
that can be judged beforehand is; from then on the trial ends with the new one accepted, or with
the one before in force again (design invariant 3). A host where none has worked yet has nothing to
come back to: there `join` alone decides.
"""

import functools
import logging
from collections.abc import Callable

from ..config import model
from ..errors import HostAgentError, StillDrifted
from ..supervise import child
from . import fields, join, membership, readiness, reload, state, survey

logger = logging.getLogger(__name__)

TRIAL_TIME_S = 30.0
# What a passing cause kept out is tried again after so long, then twice as long, up to an hour:
# each try may cost the proxy's connections.
FIRST_RETRY_S = 60.0
LONGEST_RETRY_S = 3600.0


class Trial:
    """Brings the configuration that the files make into force, and ends well either way."""

    def __init__(
        self,
        parts: state.Parts,
        members: membership.Membership,
        put_into_force: Callable[[model.Config], None],
    ) -> None:
        """Start with nothing to judge."""
        self._parts = parts
        self._members = members
        self._put_into_force = put_into_force
        self._is_judged = False
        self._is_partial = False  # the identity is in force, the rest waits for its certificate
        self._had_served = False
        self._has_way_back = False  # what worked before was whole when it was left
        self._failures = 0  # tries in a row that a passing cause ended

    def consider(self) -> None:
        """The files may say something else: judge it, or take it at once if none has worked."""
        self._failures = 0
        self._consider()

    def _consider(self) -> None:
        parts, part = self._parts, self._parts.configuration
        part.candidate = None
        parts.retry_at = None
        parts.proxy.stop_judging()
        if not parts.is_joined or part.worked is None:
            self._take(part.loaded)
            return
        if part.in_force is None or part.loaded.config == part.worked:
            self._take(part.last_worked)
        config = part.loaded.config
        if config is None or config == part.in_force:
            return
        part.candidate = part.loaded
        self._is_judged = False
        # Not longer than this is waited for what works to be whole, before it is changed.
        parts.trial_at = parts.clock.monotonic() + TRIAL_TIME_S
        parts.proxy.judge(config, functools.partial(self._judged, part.loaded))

    def _take(self, loaded: reload.Loaded | None) -> None:
        part = self._parts.configuration
        if loaded is not None and loaded.config not in (None, part.in_force):
            self._parts.trial_at = None
            self._is_partial = self._has_way_back = False
            self._put_into_force(part.take(loaded))

    def _judged(self, candidate: reload.Loaded, error: HostAgentError | None) -> None:
        if candidate is not self._parts.configuration.candidate:
            return
        if error is None:
            self._is_judged = True
        else:
            self._refuse(error.text, is_final=True)

    def advance(self) -> bool:
        """Bring it forward; True if another configuration has been put into force."""
        parts, part = self._parts, self._parts.configuration
        if not parts.is_joined:
            return False
        if parts.retry_at is not None and parts.clock.monotonic() >= parts.retry_at:
            part.refresh(is_asked=True)
            self._consider()
        now = survey.situation(parts)
        if part.candidate is not None and self._is_judged and self._may_begin(now):
            self._begin(part.candidate, now)
            return True
        if self._is_partial and now.has_certificate:
            self._complete()
            return True
        self._accept(now)
        if not part.is_on_trial:
            return False
        verdict = self._verdict(now)
        if not (reason := verdict or (self._passing_trouble() if self._is_over(now) else "")):
            return False
        if part.candidate is not None:
            self._take(part.last_worked)  # the files say something else already
            parts.trial_at = parts.clock.monotonic() + TRIAL_TIME_S
        else:
            self._refuse(reason, is_final=bool(verdict))
        return True

    def _may_begin(self, now: join.Situation) -> bool:
        """Not while what works is on its way: it is what may have to be come back to."""
        if self._has_way_back or now.is_in_mesh or self._is_time_over():
            return True
        # A proxy that has just ended may be there again at once.
        is_starting = now.proxy in (child.State.STARTING, child.State.BACKOFF)
        is_hopeful = is_starting and not now.is_attempt_over
        report = readiness.describe(survey.knowledge(self._parts))
        return report.is_in_control and not is_hopeful

    def _is_time_over(self) -> bool:
        until = self._parts.trial_at
        return until is not None and self._parts.clock.monotonic() >= until

    def _begin(self, candidate: reload.Loaded, now: join.Situation) -> None:
        """Put a candidate into force, in place also of one that is on trial itself."""
        parts, part = self._parts, self._parts.configuration
        if not part.is_on_trial:
            self._has_way_back = now.is_in_mesh
            self._had_served = now.proxy is child.State.READY
        config = part.take(candidate)
        part.candidate = None
        # To come back to what did not work either would gain nothing.
        has_end = self._has_way_back
        parts.trial_at = parts.clock.monotonic() + TRIAL_TIME_S if has_end else None
        # What serves goes on with its rules until there is a certificate for what is to come.
        parts.certificate.configure(config.identity)
        self._is_partial = True
        if parts.certificate.is_held or not self._has_way_back:
            self._complete()

    def _complete(self) -> None:
        config = self._parts.configuration.in_force
        assert config is not None
        self._is_partial = False
        self._put_into_force(config)

    def _accept(self, now: join.Situation) -> None:
        parts = self._parts
        is_whole = now.rules is join.Rules.PROVEN and now.is_complete and not now.is_outdated
        if self._is_partial or not is_whole or parts.clock.monotonic() < parts.marks.retry_at:
            return
        if now.proxy is child.State.READY and self._members.accept():
            self._has_way_back = False
            parts.proxy.remember()
            if parts.configuration.candidate is None:
                parts.trial_at = None
                parts.certificate.release_others()
        self._members.keep()

    def _verdict(self, now: join.Situation) -> str:
        """What ends a trial at once and for good: packets that disprove, or the proxy's own no."""
        parts = self._parts
        config, before = parts.configuration.in_force, parts.configuration.worked
        assert config is not None and before is not None
        if self._is_partial:
            return ""
        is_new = config.redirection != before.redirection
        if is_new and now.is_proof_broken and isinstance(parts.redirection.trouble, StillDrifted):
            return parts.redirection.trouble.text
        if parts.proxy.bootstrap is join.Check.BAD and parts.proxy.would_differ(before):
            return parts.proxy.trouble
        # One that a signal ended, from the kernel short of memory for example, said nothing.
        proxy = parts.proxy.child.child
        has_exited = proxy.is_given_up and proxy.has_exited
        if self._had_served and has_exited and not now.is_outdated:
            return parts.proxy.trouble
        return ""

    def _is_over(self, now: join.Situation) -> bool:
        """Whether what is on trial has had its time."""
        is_late = self._had_served and now.is_attempt_over and not now.is_outdated
        is_last = self._parts.configuration.candidate is None
        return (is_late and not self._is_partial) or (is_last and self._is_time_over())

    def _passing_trouble(self) -> str:
        """What kept it from working so far, and may be gone the next time."""
        parts = self._parts
        refusal = parts.certificate.trouble
        certificate = refusal.text if refusal is not None else ""
        if self._is_partial:
            return certificate or "no certificate for it"
        rules = parts.redirection.trouble_text
        return parts.proxy.trouble or certificate or rules or membership.NOT_READY

    def _refuse(self, reason: str, *, is_final: bool) -> None:
        """Let what worked before be in force; one that is final stays refused over a restart."""
        parts, part = self._parts, self._parts.configuration
        logger.error(
            "the new configuration does not hold; the one before stays in force",
            extra=fields.of(CODE="not-kept", DETAIL=reason),
        )
        parts.trial_at = None
        self._is_partial = self._has_way_back = False
        before = part.in_force
        config = part.refuse(reason, is_final=is_final)
        if is_final:
            parts.marks.keep(reload.REFUSED, part.save_refused)
        else:
            self._failures += 1
            pause = min(FIRST_RETRY_S * 2 ** min(self._failures - 1, 6), LONGEST_RETRY_S)
            parts.retry_at = parts.clock.monotonic() + pause
        if config != before:
            self._put_into_force(config)
