"""What the command line asks of the running agent, and when it gets its answer.

Every request is one JSON object with a `verb`; every answer has `ok`, and `error` with `code`,
`message` and `exit_status` where it is false. Reports have a `version`; fields are only added.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..config import capture
from ..errors import (
    AuthorityUnavailable,
    CertificateRefused,
    CertificateUntrusted,
    CredentialMissing,
    HostAgentError,
    HostUnsupported,
    NotPermitted,
    Problem,
)
from ..host import layers, ports
from ..identity import rotation
from ..lifecycle.phase import Phase
from ..lifecycle.report import Report
from ..redirect import plan, policy, takeover
from ..supervise import validation
from . import components, configuration, places, reload, status, verifying

logger = logging.getLogger(__name__)

MAX_WAITING = 64
# Verbs that nobody may use beside the agent, and why.
_REFUSED = {
    "clean": HostAgentError(
        "clean is refused while the agent runs (systemctl stop istio-hostagent)"
    ),
    "reset": HostAgentError(
        "reset is refused while the agent runs (systemctl stop istio-hostagent)"
    ),
    "apply --confirm-within": HostAgentError(
        "apply --confirm-within is refused while the agent runs: it takes changed files as soon as"
        " they are saved, and goes back by itself if they do not work, but not if you are cut off",
        hint="to try changed files: systemctl stop istio-hostagent (which takes this host out of"
        " the mesh), apply --confirm-within, apply --confirm, systemctl start istio-hostagent",
    ),
}


class Requests:
    """The callers that wait for something, and the verbs they may use."""

    def __init__(
        self, parts: components.Components, reload: Callable[[Callable[[], None]], None]
    ) -> None:
        """Serve these parts; `reload` reads the files and then calls what it was given.

        The socket itself belongs to the composition root.
        """
        self._parts = parts
        self._reload_files = reload
        self._joining: list[ports.Caller] = []
        self._settling: list[tuple[ports.Caller, Callable[[ports.Caller, Report], None]]] = []
        self._verifying = verifying.Verifying(
            parts, lambda caller, error: caller.answer(refusal(error))
        )
        self._verbs: dict[str, Callable[[ports.Caller], None]] = {
            "status": self._status,
            "wait": self._wait,
            "reload": self._reload,
            "apply": self._apply,
            "plan": self._plan,
            "verify": self._verify,
            "renew": self._renew,
        }

    def take(self, caller: ports.Caller) -> None:
        """Answer now or remember who asked."""
        verb = caller.request.get("verb")
        action = self._verbs.get(verb) if isinstance(verb, str) else None
        if action is None:
            known = _REFUSED.get(verb) if isinstance(verb, str) else None
            error = known or HostAgentError(f"unknown verb {verb!r}")
            caller.answer(refusal(error) | {"exit_status": 75})
            return
        _answer(caller, functools.partial(action, caller))

    def _status(self, caller: ports.Caller) -> None:
        caller.answer({"ok": True, "status": status.report(self._parts)})

    def _wait(self, caller: ports.Caller) -> None:
        if len(self._joining) >= MAX_WAITING:
            self._joining.pop(0).answer(refusal(HostAgentError("too many callers wait")))
        self._joining.append(caller)

    def _reload(self, caller: ports.Caller) -> None:
        self._reload_files(lambda: self._settling.append((caller, self._taken)))

    def _apply(self, caller: ports.Caller) -> None:
        self._reload_files(functools.partial(self._apply_read, caller))

    def _apply_read(self, caller: ports.Caller) -> None:
        loaded = self._parts.configuration.loaded_for(self._parts.life)
        if loaded.config is None or loaded.problems:
            is_passing = self._parts.configuration.failure is not None
            caller.answer(self._not_usable() | ({"exit_status": 75} if is_passing else {}))
        elif not self._parts.life.is_joined:
            error = HostAgentError(
                "the agent runs and this host has not joined: it installs the rules itself",
                hint="istio-hostagent status says what it waits for",
            )
            caller.answer(refusal(error) | {"exit_status": 75})
        else:
            self._settling.append((caller, self._install))

    def _taken(self, caller: ports.Caller, report: Report) -> None:
        caller.answer({"ok": True, "summary": report.summary})

    def _install(self, caller: ports.Caller, _report: Report) -> None:
        part, told = self._parts.redirection, self._parts.life.told
        if part.value.is_changing:
            self._settling.append((caller, self._install))  # for somebody who asked before
        else:
            is_none = told is not None and configuration.config_of(told).redirection.is_none
            notes = capture.describe_none(is_none=is_none)
            part.apply(functools.partial(_answer_changes, caller, notes=notes))

    def _plan(self, caller: ports.Caller) -> None:
        def read(found: layers.Found | Problem) -> None:
            _answer(caller, functools.partial(self._plan_read, caller, found))

        self._parts.configuration.glance(read)

    def _plan_read(self, caller: ports.Caller, found: layers.Found | Problem) -> None:
        if isinstance(found, Problem):
            caller.answer(refusal(HostAgentError(str(found))) | {"exit_status": 75})
            return
        accepted = configuration.layers_of(self._parts.life.disk.accepted)
        session = {"SSH_CONNECTION": str(caller.request.get("session", ""))}
        session_ports = places.find_session_ports(session)
        machine = self._parts.machine
        facts = machine.facts._replace(session_ports=session_ports)
        loaded = reload.load(found, facts, accepted)
        if loaded.config is None or loaded.problems:
            caller.answer(self._not_usable(loaded))
            return
        settings = self._parts.redirection.as_known(loaded.config.redirection)
        facts = machine.with_units(facts, settings.owners.units)
        wanted = policy.build_ruleset(settings, facts)
        warnings = [str(warning) for warning in loaded.warnings]
        warnings += capture.describe_none(is_none=settings.is_none)
        has_changes = caller.request.get("has_changes") is True
        answer = functools.partial(
            _answer_changes, caller, warnings=warnings, has_changes=has_changes
        )
        if loaded.config.redirection.is_managed:
            answer = functools.partial(self._plan_takeover, answer)
        self._parts.rules.plan(wanted, answer)

    def _plan_takeover(
        self, answer: Callable[..., None], found: plan.Changes | HostAgentError
    ) -> None:
        """Say also what of Istio's scripts would be taken out."""

        def seen(outcome: takeover.Outcome) -> None:
            taken_over = [each.text for each in outcome.found]
            answer(found, taken_over=taken_over, unknown=outcome.unknown)

        self._parts.others.look(seen)

    def _verify(self, caller: ports.Caller) -> None:
        if self._parts.life.told is None:
            caller.answer(self._not_usable())
        else:
            self._verifying.ask(caller)

    def _renew(self, caller: ports.Caller) -> None:
        part = self._parts.certificate
        if self._parts.life.in_force is None:
            caller.answer(self._not_usable())
            return

        def finished(answer: Any) -> None:
            if part.value.last_error is None and part.value.held is not None:
                found = part.status(self._parts.life, self._parts.now())
                caller.answer({"ok": True, "certificate": found})
            else:
                caller.answer(_refused_renewal(part.value.last_error))

        part.renew(finished)

    def _not_usable(self, found: reload.Loaded | None = None) -> dict[str, Any]:
        loaded = found or self._parts.configuration.loaded_for(self._parts.life)
        if loaded.problems:
            lines = [str(problem) for problem in loaded.problems]
            message = "\n".join(
                [*lines, configuration.STAYS_ACTIVE] if loaded.is_previous else lines
            )
        else:
            sources = self._parts.configuration.sources
            message = f"no configuration yet: {sources.cluster} and {sources.sidecar} set nothing"
        return refusal(HostAgentError(message)) | {"exit_status": 78, "code": "config-invalid"}

    def tell(self, report: Report) -> None:
        """After each turn: answer those whose moment has come."""
        self._verifying.tell()
        if report.is_in_mesh and self._joining:
            joined, self._joining = self._joining, []
            for caller in joined:
                caller.answer({"ok": True, "status": status.report(self._parts)})
        if self._settling and self._is_settled(report):
            settled, self._settling = self._settling, []
            for caller, act in settled:
                verdict = self._verdict(report)
                if verdict is not None:
                    caller.answer(verdict)
                else:
                    act(caller, report)

    def _is_settled(self, report: Report) -> bool:
        """Whether it is known what became of the files: nothing that they began is under way."""
        life, now_is = self._parts.life, self._parts.situation()
        rules = now_is.redirection
        if _is_first_check(now_is.validation) or rules.is_proving or rules.is_changing:
            return False
        if life.in_force is None:
            return True
        if not life.is_joined:
            return not now_is.rotation.is_asking  # whether the CA says yes is soon known
        if life.rollout.candidate is not None:
            return bool(life.rollout.validation.last_error)
        if life.phase is Phase.TRYING:
            # One without an end: nothing has worked that could be come back to.
            is_late = now_is.child.is_late(self._parts.clock.monotonic())
            is_late = is_late and not now_is.is_outdated
            is_known = report.is_in_mesh or report.is_in_control or is_late
            return life.rollout.until_at is None and is_known
        return now_is.redirection.is_shown or bool(now_is.redirection.last_error)

    def _verdict(self, report: Report) -> dict[str, Any] | None:
        """The error for a caller whose configuration did not become active, else None."""
        parts, life = self._parts, self._parts.life
        if parts.configuration.loaded_for(life).problems:
            answer = self._not_usable()
            is_passing = life.refusal is not None and life.refusal.retry_at is not None
            is_passing = is_passing or parts.configuration.failure is not None
            return answer | {"exit_status": 75} if is_passing else answer
        if life.in_force is None and life.offer.is_empty:
            return self._not_usable()
        if life.rollout.candidate is not None:
            error = life.rollout.validation.last_error
            message = f"not active yet, retried automatically: {error}"
            return refusal(HostAgentError(message)) | {"exit_status": 75}
        if parts.redirection.value.last_error and life.is_joined:
            return refusal(parts.redirection.error or HostAgentError(parts.redirection.last_error))
        if life.phase is Phase.TRYING:
            return refusal(HostAgentError(report.summary)) | {"exit_status": 75}
        return None

    def close(self) -> None:
        """The agent ends: who still waits sees that, and may wait for the next one."""
        for caller in [*self._joining, *(caller for caller, _ in self._settling)]:
            caller.hang_up()
        self._verifying.close()


def _answer(caller: ports.Caller, action: Callable[[], None]) -> None:
    """Act, and tell the caller of what was foreseen to go wrong."""
    try:
        action()
    except HostAgentError as error:
        caller.answer(refusal(error))


def _answer_changes(
    caller: ports.Caller,
    found: plan.Changes | HostAgentError,
    *,
    warnings: Sequence[str] = (),
    has_changes: bool = False,
    taken_over: Sequence[str] = (),
    unknown: str = "",
    notes: Sequence[str] = (),
) -> None:
    if isinstance(found, HostAgentError):
        caller.answer(refusal(found))
        return
    lines = [*found.lines, *map(takeover.render, taken_over), *notes]
    answer = {"ok": True, "lines": lines, "warnings": [*warnings, *filter(None, [unknown])]}
    answer["taken_over"] = list(taken_over)
    if has_changes:
        answer["changes"] = [change.to_json() for change in found.details]
    caller.answer(answer)


def _is_first_check(value: validation.Validation) -> bool:
    return value.check is validation.Check.RUNNING and not value.failures


def _refused_renewal(last_error: rotation.Failure | None) -> dict[str, Any]:
    kinds: dict[str, type[HostAgentError]] = {
        kind.code: kind
        for kind in (
            *(AuthorityUnavailable, CertificateRefused, CertificateUntrusted),
            *(CredentialMissing, NotPermitted, HostUnsupported),
        )
    }
    if last_error is None:
        return refusal(AuthorityUnavailable("no certificate"))
    kind = kinds.get(last_error.code, AuthorityUnavailable)
    return refusal(kind(last_error.message, hint=last_error.hint)) | {"code": last_error.code}


def refusal(error: HostAgentError) -> dict[str, Any]:
    """The answer that says no, with the exit status the command line ends with."""
    return {
        "ok": False,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "exit_status": error.exit_status,
    }
