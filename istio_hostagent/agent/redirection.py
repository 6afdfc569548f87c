"""The redirection part of the agent: rules wanted, in, proven, and repaired."""

import logging
from typing import Any

from ..config import model as config
from ..errors import ApplyRejected, HostAgentError, StillDrifted
from ..host import facts as host
from ..host import loopback, nftables, ports
from ..redirect import model, policy, promises
from . import fields, join, proof, reconcile, tasks

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 10.0
# More repairs than this within the window: somebody fights us, and each repair then waits longer.
MAX_REPAIRS = 8
REPAIR_WINDOW_S = 10.0
MAX_PAUSE_S = 30.0
# After somebody else's change packets show whether all is as it was: so much later, since changes
# come in bursts, and not more often than this.
FIRST_DOUBT_S = 0.2
DOUBT_S = 10.0


class RedirectionPart:
    """Keeps the kernel's rules equal to the configuration and knows whether packets agree."""

    def __init__(self, kernel: ports.Kernel, work: tasks.Tasks, clock: ports.Clock) -> None:
        """Start with nothing wanted and nothing known."""
        self._kernel = kernel
        self._work = work
        self._clock = clock
        self._facts: config.HostFacts | None = None
        self._settings: config.Redirection | None = None
        self._version = 0
        self._failures = 0
        self._repairs: list[float] = []
        self._culprits = ""
        self.desired = model.Ruleset()
        self.rules = join.Rules.OUT
        self.trouble: HostAgentError | None = None
        self.findings: tuple[promises.Finding, ...] = ()
        self.apply_at = 0.0
        self.prove_at = 0.0
        self.is_proof_broken = False
        self.is_proof_stale = False
        self._proved_at = 0.0
        self.repaired = 0

    def configure(self, settings: config.Redirection, facts: config.HostFacts) -> None:
        """Want what these settings mean; nothing reaches the kernel yet."""
        desired = policy.build_ruleset(settings, facts)
        has_changed = desired != self.desired
        self._settings = settings
        self._facts = facts
        if has_changed:
            self.desired = desired
            self.rules = join.Rules.OUT
            self.trouble = None
            self.retry_now()

    def retry_now(self) -> None:
        """Forget what failed: something has changed."""
        self._failures = 0
        self.apply_at = 0.0
        self.prove_at = 0.0
        self.is_proof_broken = False

    @property
    def trouble_text(self) -> str:
        """What is wrong with the rules and what to do about it, or nothing."""
        return self.trouble.text if self.trouble is not None else ""

    @property
    def is_proving(self) -> bool:
        """Whether probe packets are under way."""
        return self._work.is_running(proof.WORKER)

    @property
    def fight_until(self) -> float:
        """Until when somebody counts as fighting us (monotonic seconds); 0: nobody does."""
        is_fight = len(self._repairs) > MAX_REPAIRS
        return self._repairs[-MAX_REPAIRS - 1] + REPAIR_WINDOW_S if is_fight else 0.0

    @property
    def fight(self) -> str:
        """Who keeps changing our rules, or nothing."""
        if self._clock.monotonic() >= self.fight_until:
            return ""
        return f"{self._culprits} keeps changing the rules; they are put back ever more slowly"

    def apply(self) -> bool:
        """Bring the kernel to what is wanted and read it back; says whether it is there now."""
        try:
            done = reconcile.reconcile(self.desired, self._kernel)
        except HostAgentError as error:
            self._failed(error)
            return False
        self.trouble = None
        self.rules = join.Rules.IN
        self.prove_at = 0.0
        self.is_proof_broken = False
        if done:
            self._version += 1
            logger.info(
                "redirection installed and read back", extra=fields.of(COUNT=len(done.lines))
            )
        return True

    def _failed(self, error: HostAgentError) -> None:
        self._failures += 1
        pause = min(0.2 * 2 ** min(self._failures, 10), MAX_PAUSE_S)
        self.apply_at = self._clock.monotonic() + pause
        self.rules = join.Rules.OUT
        if self._failures & (self._failures - 1) == 0:
            detail = error.step if isinstance(error, ApplyRejected) else ""
            logger.error(
                "redirection not installed: %s",
                error,
                extra=fields.of(
                    CODE=error.code, DETAIL=detail, HINT=error.hint, FAILURES=self._failures
                ),
            )
        self.trouble = error

    def prove(self) -> None:
        """Send the probe packets; the answer arrives as the end of a task."""
        assert self._settings is not None and self._facts is not None
        self.is_proof_stale = False
        self._proved_at = self._clock.monotonic()
        made = promises.build_promises(self._settings, host.look_again(self._facts))
        version = self._version
        request = proof.make_request(made, self._facts)
        self._work.start_worker(
            proof.WORKER,
            request,
            user=None,
            timeout_s=PROBE_TIMEOUT_S,
            done=lambda answer: self._proved(made, version, answer),
        )

    def _proved(self, made: tuple[promises.Promise, ...], version: int, answer: Any) -> None:
        if version != self._version or self.rules is join.Rules.OUT:
            return  # the rules changed under the probes: they are proven again
        try:
            if isinstance(answer, HostAgentError):
                raise answer
            self.findings = proof.judge(made, answer)
            broken = proof.having(self.findings, promises.State.BROKEN)
            if broken:
                raise StillDrifted([str(finding) for finding in broken])
        except HostAgentError as error:
            self._broken(error)
            return
        self._failures = 0
        self.trouble = None
        self.is_proof_broken = False
        was_proven = self.rules is join.Rules.PROVEN
        self.rules = join.Rules.PROVEN
        if not was_proven:
            kept = proof.having(self.findings, promises.State.KEPT)
            logger.info("redirection proven with packets", extra=fields.of(COUNT=len(kept)))

    def _broken(self, error: HostAgentError) -> None:
        self._failures += 1
        self.is_proof_broken = True
        self.trouble = error
        self.rules = join.Rules.IN
        pause = min(2.0 * 2 ** min(self._failures, 6), MAX_PAUSE_S)
        self.prove_at = self._clock.monotonic() + pause
        logger.error(
            "redirection not proven: %s",
            error,
            extra=fields.of(CODE="not-proven", CULPRIT=self._culprits),
        )

    def check(self, changes: tuple[nftables.Change, ...]) -> None:
        """Somebody changed something: look at our part, and put it back if it was touched."""
        if self.rules is join.Rules.OUT:
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
            if not self.is_proof_stale:
                self.is_proof_stale = True
                pause = FIRST_DOUBT_S if self.is_proof_broken else DOUBT_S
                self.prove_at = max(now + FIRST_DOUBT_S, self._proved_at + pause)
            return
        self._repairs = [at for at in self._repairs if now - at < REPAIR_WINDOW_S] + [now]
        culprit = ", ".join(sorted({f"{change.process_name}[{change.pid}]" for change in changes}))
        logger.warning(
            "rules changed by somebody else; putting them back",
            extra=fields.of(CULPRIT=culprit, DETAIL=str(drifts[0]), COUNT=len(drifts)),
        )
        self.repaired += 1
        self._version += 1
        excess = len(self._repairs) - MAX_REPAIRS
        if excess > 0:
            self.rules = join.Rules.OUT
            self.apply_at = now + min(0.1 * 2 ** min(excess, 9), MAX_PAUSE_S)
        else:
            self.apply()

    def look_at_addresses(self) -> None:
        """See whether our addresses are still on `lo`; nobody tells when they are taken off."""
        wanted = self.desired.loopback_addresses
        if self.rules is not join.Rules.OUT and loopback.observe(wanted) != wanted:
            self.check(())

    def withdraw(self) -> bool:
        """Take out everything that is ours; says whether it is out."""
        self._version += 1
        self.rules = join.Rules.OUT
        try:
            reconcile.reconcile(model.Ruleset(), self._kernel)
        except HostAgentError as error:
            self._failed(error)
            return False
        return True
