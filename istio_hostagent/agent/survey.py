"""From the parts to the frozen values that decide (`join`) and become words (`readiness`)."""

from . import fields, join, readiness, state

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
        is_attempt_over=parts.proxy.child.child.is_late(now),
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
            parts.proxy.child.child.patience_at or 0.0,
            parts.marks.retry_at,
            parts.trial_at or 0.0,
            parts.retry_at or 0.0,
            parts.certificate.next_at - parts.clock.now() + now,
        ]
        moments += [moment - now for moment in pauses if moment > now]
    return max(min([HEARTBEAT_S, *moments]), 0.0)
