"""PURE: what to do next, given what is known. The whole order of joining and staying is here.

Rules for editing: `next_steps` sees a `Situation` and nothing else; it names steps and performs
none; asked again with an unchanged situation it names the same steps. Design invariants 1 to 3
are these lines, so a change here is a change of a promise.

A host that is not joined gets rules only when everything else is ready, and loses them again
when the proxy does not become ready. A joined host gets its rules first and keeps them.
"""

import enum
from dataclasses import dataclass

from ..supervise import child


class Rules(enum.Enum):
    """How far the redirection is: not as wanted, read back equal, shown by packets."""

    OUT = "absent"
    IN = "installed"
    PROVEN = "proven"


class Check(enum.Enum):
    """What is known about the proxy's bootstrap."""

    UNKNOWN = "unknown"
    GOOD = "valid"
    BAD = "invalid"


class Step(enum.Enum):
    """Something to perform now."""

    VALIDATE = "validate the proxy's bootstrap"
    OBTAIN = "obtain a certificate"
    APPLY = "install the rules"
    PROVE = "prove the rules with packets"
    START = "start the proxy, in place of one that is outdated"
    MARK = "remember that this host is joined"
    WITHDRAW = "take the rules out again"


@dataclass(frozen=True)
class Situation:
    """All that the order of steps depends on; `is_..._due`: its next try may begin."""

    has_config: bool
    is_joined: bool
    is_attempting: bool  # rules may be in although this host has not joined
    is_attempt_due: bool  # a failed attempt to join waits before the next one
    is_attempt_over: bool  # the proxy had its time, or its tries, to become ready
    has_binary: bool
    bootstrap: Check
    is_validating: bool
    has_certificate: bool
    is_asking: bool
    is_certificate_due: bool
    rules: Rules
    is_apply_due: bool
    is_proving: bool
    is_proof_due: bool
    is_proof_stale: bool  # somebody else changed something since the packets were sent
    is_proof_broken: bool
    proxy: child.State
    is_outdated: bool  # what runs is not the proxy, or not the bootstrap, that is wanted

    @property
    def is_complete(self) -> bool:
        """Everything is there that a proxy needs."""
        return (
            self.has_config
            and self.has_binary
            and self.bootstrap is Check.GOOD
            and self.has_certificate
        )

    @property
    def is_in_mesh(self) -> bool:
        """What the words `in the mesh` promise (design 3.5)."""
        return (
            self.is_joined
            and self.has_certificate
            and self.rules is Rules.PROVEN
            and self.is_serving
        )

    @property
    def is_serving(self) -> bool:
        """The proxy that is wanted is ready."""
        return self.proxy is child.State.READY and not self.is_outdated


def next_steps(now: Situation) -> tuple[Step, ...]:
    """Name the steps to perform, in this order; an empty tuple means wait for an event."""
    if now.is_attempting and not now.is_joined:
        has_failed = now.is_proof_broken or now.is_attempt_over or not now.is_complete
        has_joined = now.rules is Rules.PROVEN and now.is_serving
        if has_failed and not has_joined and now.is_apply_due:
            return (Step.WITHDRAW,)
    if not now.has_config:
        return ()
    steps = []
    if now.has_binary and now.bootstrap is Check.UNKNOWN and not now.is_validating:
        steps.append(Step.VALIDATE)
    wants_certificate = now.is_certificate_due and not now.is_asking
    if wants_certificate and (now.has_binary or now.has_certificate or now.is_joined):
        steps.append(Step.OBTAIN)
    if _may_redirect(now) and now.rules is Rules.OUT and now.is_apply_due:
        steps.insert(0, Step.APPLY)
    elif _wants_proof(now):
        steps.insert(0, Step.PROVE)
    is_wanted = now.proxy is child.State.IDLE or now.is_outdated
    if now.rules is Rules.PROVEN and now.is_complete and is_wanted:
        steps.append(Step.START)
    if not now.is_joined and now.rules is Rules.PROVEN and now.is_serving:
        steps.append(Step.MARK)
    return tuple(steps)


def _may_redirect(now: Situation) -> bool:
    if now.is_joined:
        return True
    # The proxy of the attempt before may still hold its ports.
    is_free = now.proxy not in (child.State.STOPPING, child.State.REPLACING)
    return now.is_complete and now.is_attempt_due and is_free


def _wants_proof(now: Situation) -> bool:
    is_open = now.rules is Rules.IN or (now.rules is Rules.PROVEN and now.is_proof_stale)
    return is_open and not now.is_proving and now.is_proof_due
