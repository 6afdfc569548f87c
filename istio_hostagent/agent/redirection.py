"""The redirection part of the agent: performs on the kernel what `lifecycle.redirection` keeps.

It alone changes the kernel while the agent runs, also for the verbs.
"""

import logging
from typing import Any

from ..config import model as config
from ..errors import ApplyRejected, HostAgentError, StillDrifted
from ..host import facts as host
from ..host import loopback, nftables, ports
from ..lifecycle import redirection as states
from ..redirect import model, policy, promises
from . import fields, proof, reconcile, tasks

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 10.0


class RedirectionPart:
    """Keeps the kernel's rules equal to the configuration and knows whether packets agree."""

    def __init__(self, kernel: ports.Kernel, work: tasks.Tasks, clock: ports.Clock) -> None:
        """Start with nothing desired and nothing known."""
        self._kernel = kernel
        self._work = work
        self._clock = clock
        self._facts: config.HostFacts | None = None
        self._settings: config.Redirection | None = None
        self._version = 0
        self._culprits = ""
        self.value = states.Redirection()
        self.desired = model.Ruleset()
        self.error: HostAgentError | None = None  # behind `value.last_error`
        self.findings: tuple[promises.Finding, ...] = ()
        self.repaired = 0

    def configure(self, settings: config.Redirection, facts: config.HostFacts) -> None:
        """Desire what these settings mean; nothing reaches the kernel yet."""
        desired = policy.build_ruleset(settings, facts)
        self._settings = settings
        self._facts = facts
        if desired != self.desired:
            self.desired = desired
            self._version += 1
            self.error = None
            self.value = states.desire(self.value, self._version)

    def take_facts(self, facts: config.HostFacts) -> None:
        """The machine has changed: desire what the same settings mean on it now."""
        if self._settings is not None:
            self.configure(self._settings, facts)

    def retry(self) -> None:
        """Something has changed: what failed may be tried at once."""
        self.value = states.retry(self.value)

    @property
    def trouble(self) -> str:
        """What is wrong with the rules and what to do about it, or nothing."""
        if self.value.last_error:
            return self.error.text if self.error is not None else self.value.last_error
        if self._clock.monotonic() >= self.value.fight_until_at:
            return ""
        return f"{self._culprits} keeps changing the rules; they are put back ever more slowly"

    def apply(self) -> model.Plan | None:
        """Bring the kernel to what is desired and read it back; None: that failed."""
        try:
            done = reconcile.reconcile(self.desired, self._kernel)
        except HostAgentError as error:
            self._failed(error)
            return None
        self.error = None
        self.value = states.applied(self.value, has_changed=bool(done))
        if done:
            logger.info(
                "redirection installed and read back", extra=fields.of(COUNT=len(done.lines))
            )
        return done

    def _failed(self, error: HostAgentError) -> None:
        self.error = error
        before = self.value
        self.value = states.apply_failed(self.value, error.text, self._clock.monotonic())
        if self.value.failures & (self.value.failures - 1) == 0 or before.last_error != error.text:
            detail = error.step if isinstance(error, ApplyRejected) else ""
            logger.error(
                "redirection not installed: %s",
                error,
                extra=fields.of(
                    CODE=error.code,
                    DETAIL=detail,
                    HINT=error.hint,
                    FAILURES=self.value.failures,
                ),
            )

    def prove(self) -> None:
        """Send the probe packets; the answer arrives as the end of a task."""
        assert self._settings is not None and self._facts is not None
        self.value = states.proof_begun(self.value, self._clock.monotonic())
        facts = host.look_again(self._facts)
        made = promises.build_promises(self._settings, facts)
        self._work.start_worker(
            proof.WORKER,
            proof.make_request(made, self._facts),
            user=None,
            timeout_s=PROBE_TIMEOUT_S,
            done=lambda answer: self._proved(made, facts, answer),
        )

    def _proved(
        self, made: tuple[promises.Promise, ...], facts: config.HostFacts, answer: Any
    ) -> None:
        now = self._clock.monotonic()
        is_about_these = not self.value.is_overtaken and self.value.rules is not states.Rules.OUT
        try:
            if isinstance(answer, HostAgentError):
                raise answer
            findings = proof.judge(made, answer)
            broken = proof.having(findings, promises.State.BROKEN)
            if is_about_these:
                self.findings = findings
            if broken:
                raise StillDrifted([str(finding) for finding in broken])
        except HostAgentError as error:
            self._not_proven(error, now, is_about_these=is_about_these)
            return
        was_shown = self.value.is_shown
        self.value = states.proof_ended(self.value, proof.outcome(findings, facts), now)
        if is_about_these:
            self.error = None
        if self.value.is_shown and not was_shown:
            kept = proof.having(findings, promises.State.KEPT)
            logger.info("redirection proven with packets", extra=fields.of(COUNT=len(kept)))

    def _not_proven(self, error: HostAgentError, now: float, *, is_about_these: bool) -> None:
        is_disproved = isinstance(error, StillDrifted)
        self.value = states.proof_failed(self.value, error.text, now, is_disproved=is_disproved)
        if is_about_these:
            self.error = error
            extra = fields.of(CODE="not-proven", CULPRIT=self._culprits)
            logger.error("redirection not proven: %s", error, extra=extra)

    def check(self, changes: tuple[nftables.Change, ...]) -> None:
        """Somebody changed something: see whether our part was touched."""
        if self.value.rules is states.Rules.OUT:
            return
        try:
            drifts = reconcile.find_drift(self.desired, self._kernel)
        except HostAgentError as error:
            self._failed(error)
            return
        if changes:
            self._culprits = ", ".join(sorted({change.process_name or "?" for change in changes}))
        now = self._clock.monotonic()
        if not drifts:
            # Ours is as it was, but a rule of theirs may come before it.
            self.value = states.doubted(self.value, now)
            return
        culprit = ", ".join(sorted({f"{change.process_name}[{change.pid}]" for change in changes}))
        logger.warning(
            "rules changed by somebody else; putting them back",
            extra=fields.of(CULPRIT=culprit, DETAIL=str(drifts[0]), COUNT=len(drifts)),
        )
        self.repaired += 1
        self.value = states.drifted(self.value, now)

    def look_at_addresses(self) -> None:
        """See whether our addresses are still on `lo`; nobody tells when they are taken off."""
        desired = self.desired.loopback_addresses
        if self.value.rules is not states.Rules.OUT and loopback.observe(desired) != desired:
            self.check(())

    def withdraw(self) -> str:
        """Take out everything that is ours; why it is still there, or nothing."""
        try:
            reconcile.reconcile(model.Ruleset(), self._kernel)
        except HostAgentError as error:
            self._failed(error)
            return error.text
        self.value = states.withdrawn(self.value)
        return ""
