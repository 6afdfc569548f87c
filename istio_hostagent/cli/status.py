"""Say whether this host is in the mesh, and if not the first thing that is missing.

Exit status: 0 in the mesh, 1 not, 75 if no agent runs in this network namespace. Without an agent
it says whether rules wait for confirmation (apply --confirm-within). Users who are not root see
what the agent publishes: everything but words of other programs and details.

With --check it prints one line and ends as monitoring plugins do: 0 ok, 1 warning, 2 critical,
3 unknown. There are: in-mesh; cert, also cert=24h (a warning with less left) and cert=24h,6h
(critical with less than the second); proof=1h (packets have shown the rules since); control-plane,
also control-plane=10m (a warning once it is away for so long). It needs no root.
"""

import importlib
import json
from typing import Any

from ..errors import AgentUnreachable, NotPermitted
from ..hints import HINTS
from . import answer, report
from .options import Option, Values

OPTIONS = (
    Option("json", "the whole report, versioned"),
    Option("metrics", "gauges and counters, as Prometheus reads them"),
    Option("watch", "go on, and print it anew whenever it changes, until ^C"),
    Option("check", "in-mesh, cert=24h, proof=1h, control-plane", (), "WHAT", is_list=True),
)


class _NoAgent(AgentUnreachable):
    """None runs; one that does not answer is something else."""


def execute(values: Values) -> int:
    """Print the report."""
    if values["check"]:
        checking: Any = importlib.import_module(".checking", __package__)
        return int(checking.perform(values["check"]))
    if values["watch"]:
        watching: Any = importlib.import_module(".watching", __package__)
        return int(watching.follow(lambda: look(is_json=values["json"])))
    if values["metrics"]:
        gauges: Any = importlib.import_module("..gauges", __package__)
        try:
            status, _ = obtain()
        except AgentUnreachable as error:
            found: Any = importlib.import_module("..host.published", __package__)
            print(gauges.render_silence(found.read().state), end="")
            return error.exit_status
        print(gauges.render(status), end="")
        return 0 if status["in_mesh"] else 1
    try:
        exit_status, text = look(is_json=values["json"])
    except _NoAgent as error:
        return _tell_without_agent(error, is_json=values["json"])
    print(text)
    return exit_status


def look(*, is_json: bool) -> tuple[int, str]:
    """The exit status, and the report as it is printed; raises AgentUnreachable."""
    status, is_whole = obtain()
    exit_status = 0 if status["in_mesh"] else 1
    if is_json:
        return exit_status, json.dumps(_with_hints(status), indent=1)
    return exit_status, report.render(status) if is_whole else report.render_public(status)


def obtain() -> tuple[dict[str, Any], bool]:
    """The report, and whether it is whole; raises AgentUnreachable."""
    try:
        asked = answer.ask("status", timeout_s=10.0)
    except NotPermitted:
        # Root, who asks the agent, needs none of this.
        published: Any = importlib.import_module("..host.published", __package__)
        found = published.read()
        if found.state is None or found.problem:
            hint = "systemctl status istio-hostagent"
            raise AgentUnreachable(found.problem, hint=hint) from None
        return found.state, False
    if asked is None:
        said = answer.no_agent()
        raise _NoAgent(said.message, hint=said.hint)
    status: dict[str, Any] = asked["status"]
    return status, True


def _with_hints(status: dict[str, Any]) -> dict[str, Any]:
    """What to do about a cause is for people, so the agent does not keep it."""
    causes = [each | {"hint": HINTS.get(each["code"], "")} for each in status["causes"]]
    return status | {"causes": causes}


def _tell_without_agent(error: AgentUnreachable, *, is_json: bool) -> int:
    """Tell of rules that wait for confirmation; raises `error` if none ever did."""
    found = _look_for_unconfirmed()
    if not found:
        raise error
    if is_json:
        print(json.dumps(_to_json(error, found), indent=1))
    else:
        print(report.render_unconfirmed(error.message, found))
    return error.exit_status


def _look_for_unconfirmed() -> dict[str, Any]:
    """What waits here, or what became of the last rules that did; empty: nothing ever waited."""
    # Where an agent runs, none of this is needed.
    unconfirmed: Any = importlib.import_module("..host.unconfirmed", __package__)
    try:
        found: dict[str, Any] = unconfirmed.report()
    except NotPermitted:
        return {}  # that is root's
    return found


def _to_json(error: AgentUnreachable, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "in_control": False,
        "in_mesh": False,
        "summary": error.message,
        "unconfirmed": found,
    }
