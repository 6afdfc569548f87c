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
from ..errors import HostAgentError, KernelBusy
from ..supervise import child
from . import fields, join, membership, readiness, reload, state, survey

logger = logging.getLogger(__name__)

TRIAL_TIME_S = 30.0
# Codes that say that asking again gives no other answer.
FINAL_CODES = frozenset({"certificate-refused", "certificate-untrusted"})


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
        self._had_served = False

    def consider(self) -> None:
        """The files may say something else: judge it, or take it at once if none has worked."""
        parts, part = self._parts, self._parts.configuration
        part.candidate = None
        parts.proxy.stop_judging()
        if not parts.is_joined or part.worked is None:
            self._take(part.loaded)
            return
        if part.in_force is None or part.loaded.config == part.worked:
            self._take(part.last_worked)
        if part.loaded.config is None or part.loaded.config == part.in_force:
            return
        part.candidate = part.loaded
        self._is_judged = False
        # Not longer than this is waited for what works to be whole, before it is changed.
        parts.trial_at = parts.clock.monotonic() + TRIAL_TIME_S
        parts.proxy.judge(part.loaded.config, functools.partial(self._judged, part.loaded))

    def _take(self, loaded: reload.Loaded | None) -> None:
        part = self._parts.configuration
        if loaded is not None and loaded.config not in (None, part.in_force):
            config = part.take(loaded)
            self._parts.trial_at = None
            self._put_into_force(config)

    def _judged(self, candidate: reload.Loaded, error: HostAgentError | None) -> None:
        if candidate is not self._parts.configuration.candidate:
            return
        if error is None:
            self._is_judged = True
        else:
            self._refuse(error.text)

    def advance(self) -> bool:
        """Bring it forward; True if another configuration has been put into force."""
        parts, part = self._parts, self._parts.configuration
        if not parts.is_joined:
            return False
        now = survey.situation(parts)
        if part.candidate is not None and self._is_judged and self._may_begin():
            self._begin(part.candidate, now)
            return True
        self._accept(now)
        if not part.is_on_trial or not (reason := self._reason(now)):
            return False
        if part.candidate is not None:
            self._take(part.last_worked)  # the files say something else already
            parts.trial_at = parts.clock.monotonic() + TRIAL_TIME_S
        else:
            self._refuse(reason)
        return True

    def _may_begin(self) -> bool:
        """Not while what works is on its way: it is what may have to be come back to."""
        report = readiness.describe(survey.knowledge(self._parts))
        return report.is_in_mesh or report.is_in_control or self._is_time_over()

    def _is_time_over(self) -> bool:
        until = self._parts.trial_at
        return until is not None and self._parts.clock.monotonic() >= until

    def _begin(self, candidate: reload.Loaded, now: join.Situation) -> None:
        self._had_served = now.proxy is child.State.READY
        self._parts.configuration.candidate = None
        self._take(candidate)
        # To come back to what did not work either would gain nothing.
        if now.is_in_mesh:
            self._parts.trial_at = self._parts.clock.monotonic() + TRIAL_TIME_S

    def _accept(self, now: join.Situation) -> None:
        parts = self._parts
        is_whole = now.rules is join.Rules.PROVEN and now.is_complete and not now.is_outdated
        if not is_whole or parts.clock.monotonic() < parts.marks.retry_at:
            return
        self._members.keep()
        if now.proxy is child.State.READY and self._members.accept():
            parts.proxy.remember()
            parts.certificate.release_others()
            if parts.configuration.candidate is None:
                parts.trial_at = None

    def _reason(self, now: join.Situation) -> str:
        """Why what is on trial does not hold; or nothing, as long as it may."""
        parts = self._parts
        config, before = parts.configuration.in_force, parts.configuration.worked
        assert config is not None and before is not None
        trouble = parts.redirection.trouble
        is_new = config.redirection != before.redirection
        if is_new and trouble is not None and not isinstance(trouble, KernelBusy):
            return trouble.text
        if parts.proxy.bootstrap is join.Check.BAD and parts.proxy.would_differ(before):
            return parts.proxy.trouble
        refusal = parts.certificate.trouble
        is_other = config.identity != before.identity
        if is_other and refusal is not None and refusal.code in FINAL_CODES:
            return refusal.text
        if self._had_served and now.is_attempt_over and not now.is_outdated:
            return parts.proxy.trouble or membership.NOT_READY
        if parts.configuration.candidate is None and self._is_time_over():
            words = refusal.text if refusal is not None else parts.redirection.trouble_text
            return parts.proxy.trouble or words or membership.NOT_READY
        return ""

    def _refuse(self, reason: str) -> None:
        """Let what worked before be in force, now and after a restart; say so."""
        parts, part = self._parts, self._parts.configuration
        logger.error(
            "the new configuration does not hold; the one before stays in force",
            extra=fields.of(CODE="not-kept", DETAIL=reason),
        )
        parts.trial_at = None
        before = part.in_force
        config = part.refuse(reason)
        parts.marks.keep(reload.REFUSED, part.save_refused)
        if config != before:
            self._put_into_force(config)
