"""Ask the agent of this network namespace and turn its answer into output or an error."""

import importlib
from collections.abc import Mapping
from typing import Any

from ..errors import AgentUnreachable, HostAgentError
from ..host import control, instances

# A changed configuration is validated (20 s), waits for what works (30 s), and is tried (30 s).
TIMEOUT_S = 120.0


class Refused(HostAgentError):
    """The agent said no; code and exit status are its own."""

    def __init__(self, answer: dict[str, Any]) -> None:
        """Take them from the answer."""
        super().__init__(str(answer.get("message", "refused")), hint=str(answer.get("hint", "")))
        self.code = str(answer.get("code", "error"))  # type: ignore[misc] # one error, one code
        self.exit_status = int(answer.get("exit_status", 70))  # type: ignore[misc] # likewise


def ask(
    verb: str, *, timeout_s: float = TIMEOUT_S, is_patient: bool = False, **fields: object
) -> dict[str, Any] | None:
    """Return the answer to a verb, None if no agent runs here; raises Refused.

    `is_patient`: wait as long for an agent to appear. `fields`: what else it is to know.
    """
    asking = control.ask_when_there if is_patient else control.ask
    answer = asking({"verb": verb, **fields}, timeout_s)
    if answer is not None and not answer.get("ok"):
        raise Refused(answer)
    return answer


def demand(verb: str, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Like `ask`, for verbs that need an agent; raises AgentUnreachable without one."""
    answer = ask(verb, timeout_s=timeout_s)
    if answer is None:
        raise no_agent()
    return answer


def no_agent() -> AgentUnreachable:
    """What there is to say without one."""
    if name := instances.own():
        text = f"no agent called {name} runs in this network namespace"
        return AgentUnreachable(text, hint=f"{instances.KEY}={name} istio-hostagent run")
    return AgentUnreachable(
        "no agent runs in this network namespace", hint="systemctl start istio-hostagent"
    )


def alone(verb: str, environment: Mapping[str, str], **options: object) -> Any:
    """What a verb returns that no agent performs.

    What it takes is loaded only now: asking an agent takes a third of the time.
    """
    start = importlib.import_module("..agent.oneshot.start", __package__)
    return start.perform(verb, environment, **options)
