"""What the command line asks of the running agent, and when it gets its answer.

Every request is one JSON object with a `verb`; every answer has `ok`, and `error` with `code`,
`message` and `exit_status` where it is false. Reports have a `version`; fields are only added.
"""

import logging
from collections.abc import Callable
from typing import Any

from ..errors import (
    AuthorityUnavailable,
    CertificateRefused,
    CertificateUntrusted,
    HostAgentError,
)
from ..host import control
from . import inspection, issuance, join, readiness, reconcile, reload, state, status, survey

logger = logging.getLogger(__name__)

MAX_WAITING = 64


class Requests:
    """The callers that wait for something, and the verbs they may use."""

    def __init__(self, parts: state.Parts, reload: Callable[[], None]) -> None:
        """Serve these parts; the socket itself belongs to the composition root."""
        self._parts = parts
        self._reload_files = reload
        self._joining: list[control.Caller] = []
        self._settling: list[
            tuple[control.Caller, Callable[[readiness.Report], dict[str, Any]]]
        ] = []
        self._verbs: dict[str, Callable[[control.Caller], None]] = {
            "status": self._status,
            "wait": self._wait,
            "reload": self._reload,
            "apply": self._apply,
            "plan": self._plan,
            "verify": self._verify,
            "renew": self._renew,
        }

    def take(self, caller: control.Caller) -> None:
        """Answer now or remember who asked."""
        verb = caller.request.get("verb")
        action = self._verbs.get(verb) if isinstance(verb, str) else None
        if action is None:
            message = "clean is refused while the agent runs (systemctl stop istio-hostagent)"
            message = message if verb == "clean" else f"unknown verb {verb!r}"
            caller.answer(refusal(HostAgentError(message)) | {"exit_status": 75})
            return
        try:
            action(caller)
        except HostAgentError as error:
            caller.answer(refusal(error))

    def _status(self, caller: control.Caller) -> None:
        caller.answer({"ok": True, "status": status.report(self._parts)})

    def _wait(self, caller: control.Caller) -> None:
        if len(self._joining) >= MAX_WAITING:
            self._joining.pop(0).answer(refusal(HostAgentError("too many callers wait")))
        self._joining.append(caller)

    def _reload(self, caller: control.Caller) -> None:
        self._reload_files()
        self._settling.append((caller, self._taken))

    def _apply(self, caller: control.Caller) -> None:
        self._reload_files()
        loaded = self._parts.configuration.loaded
        if loaded.config is None or loaded.problems:
            caller.answer(self._not_usable())
        elif not self._parts.is_joined:
            error = HostAgentError(
                "the agent runs and this host has not joined: it installs the rules itself",
                hint="istio-hostagent status says what it waits for",
            )
            caller.answer(refusal(error) | {"exit_status": 75})
        else:
            self._settling.append((caller, self._applied))

    def _taken(self, report: readiness.Report) -> dict[str, Any]:
        return {"ok": True, "summary": report.summary}

    def _applied(self, _report: readiness.Report) -> dict[str, Any]:
        parts = self._parts
        try:
            done = reconcile.reconcile(parts.redirection.desired, parts.kernel)
        except HostAgentError as error:
            return refusal(error)
        return {"ok": True, "lines": list(done.lines)}

    def _plan(self, caller: control.Caller) -> None:
        loaded = self._parts.configuration.look()
        if loaded.config is None or loaded.problems:
            caller.answer(self._not_usable(loaded))
            return
        wanted = inspection.desired_rules(loaded.config, self._parts.facts)
        lines = reconcile.make_plan(wanted, self._parts.kernel).lines
        caller.answer({"ok": True, "lines": list(lines)})

    def _verify(self, caller: control.Caller) -> None:
        config = self._parts.configuration.in_force
        if config is None:
            caller.answer(self._not_usable())
            return
        parts = self._parts
        inspection.start(
            config,
            parts.facts,
            parts.kernel,
            parts.work,
            done=lambda result: caller.answer({"ok": True, "verification": result.to_json()}),
            failed=lambda error: caller.answer(refusal(error)),
        )

    def _renew(self, caller: control.Caller) -> None:
        part = self._parts.certificate
        if self._parts.configuration.in_force is None:
            caller.answer(self._not_usable())
            return

        def finished(answer: Any) -> None:
            if part.trouble is None and part.held is not None:
                caller.answer({"ok": True, "certificate": status.certificate(part)})
            else:
                caller.answer(_refused_renewal(part.trouble))

        part.ask(done=finished, is_forced=True)

    def _not_usable(self, found: reload.Loaded | None = None) -> dict[str, Any]:
        loaded = found or self._parts.configuration.loaded
        if loaded.problems:
            message = "\n".join(str(problem) for problem in loaded.problems)
        else:
            cluster = self._parts.configuration.sources.cluster
            message = f"no configuration yet: {cluster} is missing or empty"
        return refusal(HostAgentError(message)) | {"exit_status": 78, "code": "config-invalid"}

    def tell(self, report: readiness.Report) -> None:
        """After each turn: answer those whose moment has come."""
        if report.is_in_mesh and self._joining:
            joined, self._joining = self._joining, []
            for caller in joined:
                caller.answer({"ok": True, "status": status.report(self._parts)})
        if self._settling and self._is_settled(report):
            settled, self._settling = self._settling, []
            for caller, answer in settled:
                caller.answer(self._verdict(report) or answer(report))

    def _is_settled(self, report: readiness.Report) -> bool:
        """Whether it is known what became of the files: nothing that they began is under way."""
        parts, now = self._parts, survey.situation(self._parts)
        if parts.proxy.is_first_check or now.is_proving:
            return False
        if not now.has_config or not now.is_joined:
            return True
        if parts.configuration.candidate is not None:
            return bool(parts.proxy.check_trouble)
        if parts.configuration.is_on_trial:
            # One without an end: nothing has worked that could be come back to.
            is_known = report.is_in_mesh or report.is_in_control or now.is_attempt_over
            return parts.trial_at is None and is_known
        return now.rules is join.Rules.PROVEN or parts.redirection.trouble is not None

    def _verdict(self, report: readiness.Report) -> dict[str, Any] | None:
        """The answer of whom the files did not bring what they ask for, else None."""
        parts = self._parts
        if parts.configuration.loaded.problems:
            return self._not_usable()
        if parts.configuration.candidate is not None and parts.proxy.check_trouble:
            message = f"not in force yet, tried again by itself: {parts.proxy.check_trouble}"
            return refusal(HostAgentError(message)) | {"exit_status": 75}
        if parts.redirection.trouble is not None and parts.is_joined:
            return refusal(parts.redirection.trouble)
        if parts.is_joined and parts.configuration.is_on_trial:
            return refusal(HostAgentError(report.summary)) | {"exit_status": 75}
        return None

    def close(self) -> None:
        """The agent ends: who still waits sees that, and may wait for the next one."""
        for caller in [*self._joining, *(caller for caller, _ in self._settling)]:
            caller.hang_up()


def _refused_renewal(trouble: issuance.Trouble | None) -> dict[str, Any]:
    kinds: dict[str, type[HostAgentError]] = {
        kind.code: kind
        for kind in (AuthorityUnavailable, CertificateRefused, CertificateUntrusted)
    }
    if trouble is None:
        return refusal(AuthorityUnavailable("no certificate"))
    kind = kinds.get(trouble.code, AuthorityUnavailable)
    return refusal(kind(trouble.message, hint=trouble.hint)) | {"code": trouble.code}


def refusal(error: HostAgentError) -> dict[str, Any]:
    """The answer that says no, with the exit status the command line ends with."""
    return {
        "ok": False,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "exit_status": error.exit_status,
    }
