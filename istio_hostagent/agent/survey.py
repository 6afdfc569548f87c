"""From the parts to the frozen values that decide (`join`) and become words (`readiness`)."""

from . import fields, join, readiness, state

JOIN_TIME_S = 30.0
# A proxy that was never ready and has ended so often is not waited for any longer.
JOIN_FAILURES = 3
# The loop wakes at least this often: clocks may jump, and a host may have slept.
HEARTBEAT_S = 60.0


def situation(parts: state.Parts) -> join.Situation:
    """What is known now, as the value that decides."""
    now = parts.clock.monotonic()
    return join.Situation(
        has_config=parts.configuration.in_force is not None,
        is_joined=parts.is_joined,
        is_attempting=parts.is_attempting,
        is_attempt_due=now >= parts.attempt_at,
        is_attempt_over=_is_attempt_over(parts, now),
        has_binary=parts.proxy.binary is not None,
        bootstrap=parts.proxy.bootstrap,
        is_validating=parts.proxy.is_validating,
        has_certificate=parts.certificate.is_held,
        is_asking=parts.certificate.is_asking,
        is_certificate_due=parts.certificate.is_due,
        rules=parts.redirection.rules,
        is_apply_due=now >= parts.redirection.apply_at,
        is_proving=parts.redirection.is_proving,
        is_proof_due=now >= parts.redirection.prove_at,
        is_proof_stale=parts.redirection.is_proof_stale,
        is_proof_broken=parts.redirection.is_proof_broken,
        proxy=parts.proxy.child.state,
        is_outdated=parts.proxy.is_outdated,
    )


def _is_attempt_over(parts: state.Parts, now: float) -> bool:
    return has_proxy_failed(parts) or now >= _attempt_until(parts)


def has_proxy_failed(parts: state.Parts) -> bool:
    """Whether the proxy has ended so often without having been ready that this is its answer."""
    proxy = parts.proxy.child
    return proxy.waiting_since is not None and proxy.failures >= JOIN_FAILURES


def _attempt_until(parts: state.Parts) -> float:
    """Until when the proxy may take to become ready; endless if nobody waits."""
    since = parts.proxy.child.waiting_since
    return since + JOIN_TIME_S if since is not None else float("inf")


def knowledge(parts: state.Parts) -> readiness.Knowledge:
    """What is known now, as the value that becomes words."""
    loaded = parts.configuration.loaded
    held = parts.certificate.held
    trouble = parts.certificate.trouble
    return readiness.Knowledge(
        situation=situation(parts),
        is_empty=loaded.is_empty,
        is_kept=loaded.is_kept,
        is_changing=parts.configuration.candidate is not None or parts.configuration.is_on_trial,
        cluster_file=parts.configuration.sources.cluster,
        problems=loaded.problems,
        identity=held.identity if held is not None else "",
        held_until=fields.moment(held.not_after) if held is not None else "",
        certificate_trouble=trouble.text if trouble is not None else "",
        rules_trouble=parts.redirection.trouble_text or parts.redirection.fight,
        state_trouble=parts.marks.trouble,
        attempt_trouble=parts.attempt_trouble,
        proxy_name=parts.proxy.kind.value,
        proxy_trouble=parts.proxy.trouble,
        searched=parts.proxy.searched,
    )


def patience_s(parts: state.Parts) -> float:
    """How long nothing has to be done unless something happens, in seconds."""
    now = parts.clock.monotonic()
    # What is overdue there is done at the next turn: then do not wait at all.
    pending = [parts.work.deadline(), parts.proxy.deadline()]
    moments = [moment - now for moment in pending if moment is not None]
    if parts.configuration.in_force is not None:
        # From these on something may be tried; when they are past they hold nothing up.
        pauses = [
            parts.redirection.apply_at,
            parts.redirection.prove_at,
            parts.redirection.fight_until,
            parts.attempt_at,
            _attempt_until(parts),
            parts.marks.retry_at,
            parts.trial_at or 0.0,
            parts.retry_at or 0.0,
            parts.certificate.next_at - parts.clock.now() + now,
        ]
        moments += [moment - now for moment in pauses if moment > now]
    return max(min([HEARTBEAT_S, *moments]), 0.0)
