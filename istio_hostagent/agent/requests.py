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
from ..supervise import child
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
        self._settling: list[control.Caller] = []
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
        self._settling.append(caller)

    def _apply(self, caller: control.Caller) -> None:
        self._reload_files()
        loaded = self._parts.configuration.loaded
        if loaded.config is None or loaded.problems:
            caller.answer(self._not_usable())
            return
        if not self._parts.is_joined and not survey.situation(self._parts).is_complete:
            error = HostAgentError(
                "the agent runs and this host has not joined: it installs the rules itself",
                hint="istio-hostagent status says what it waits for",
            )
            caller.answer(refusal(error) | {"exit_status": 75})
            return
        part = self._parts.redirection
        done = reconcile.reconcile(part.desired, self._parts.kernel)
        caller.answer({"ok": True, "lines": list(done.lines)})

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
        situation = survey.situation(self._parts)
        if self._settling and self._is_settled(situation):
            settled, self._settling = self._settling, []
            problems = self._parts.configuration.loaded.problems
            trouble = self._parts.redirection.trouble
            for caller in settled:
                if problems:
                    caller.answer(self._not_usable())
                elif trouble is not None and situation.is_joined:
                    caller.answer(refusal(trouble))
                else:
                    caller.answer({"ok": True, "summary": report.summary})

    def _is_settled(self, now: join.Situation) -> bool:
        """Whether it is known what became of the files: nothing that they began is under way."""
        if now.is_validating or now.is_proving:
            return False
        if not now.has_config or not now.is_joined:
            return True
        is_waited_for = now.proxy not in (child.State.IDLE, child.State.READY)
        if now.is_on_trial and is_waited_for and not now.is_attempt_over:
            return False
        return (
            now.rules is join.Rules.PROVEN
            or now.is_proof_broken
            or self._parts.redirection.trouble is not None
        )

    def close(self) -> None:
        """The agent ends: who still waits sees that, and may wait for the next one."""
        for caller in [*self._joining, *self._settling]:
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
