"""The machine around the agent: units, ports, the kernel, dnsmasq, and what others have left."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...hints import HINTS
from ...host import survey
from .finding import NEEDS_ROOT, Finding, Level
from .seen import Seen

AGENT_UNIT = "istio-hostagent.service"
GUARD = "istio-redirect.service"
ALIAS, NODE_AGENT = "istio.service", "istio-auth-node-agent.service"
OUR_NODE_AGENT = "istio-hostagent-node-agent.service"
SECRETS = "istio-hostagent-secrets.socket"
# In the order in which they are shown.
UNITS = (AGENT_UNIT, ALIAS, GUARD, NODE_AGENT, SECRETS)


def examine_units(seen: Seen) -> Iterator[Finding]:
    """How the units of the package stand, by each of their names."""
    if seen.units is None:
        words = "no systemd runs here, or it does not answer: nobody starts the agent at boot"
        yield Finding("units", Level.UNSEEN, words)
        return
    by_name = {each.name: each for each in seen.units}
    for name, examine in (
        (AGENT_UNIT, _examine_agent),
        (ALIAS, _examine_alias),
        (GUARD, _examine_guard),
        (NODE_AGENT, _examine_node_agent),
        (SECRETS, _examine_secrets),
    ):
        if name in by_name:
            yield examine(by_name[name])


def _subject(unit: survey.Unit) -> str:
    return f"unit {unit.name}"


def _examine_agent(unit: survey.Unit) -> Finding:
    words = _state(unit)
    if unit.load == "not-found":
        said = "is not installed: an agent that runs here has nobody who starts it at boot"
        return Finding(_subject(unit), Level.WARNING, said, "apt install istio-hostagent")
    if unit.load == "masked":
        return Finding(_subject(unit), Level.WRONG, words, f"systemctl unmask {unit.name}")
    if unit.active not in ("active", "reloading"):
        advice = "systemctl start istio-hostagent"
        return Finding(_subject(unit), Level.WRONG, words, advice, "agent-unreachable")
    if unit.enabled not in ("enabled", "enabled-runtime", "static", "alias", "linked"):
        said = f"{words}: it does not start at the next boot"
        return Finding(_subject(unit), Level.WARNING, said, "systemctl enable istio-hostagent")
    return Finding(_subject(unit), Level.OK, words)


def _examine_alias(unit: survey.Unit) -> Finding:
    if unit.known == AGENT_UNIT:
        return Finding(_subject(unit), Level.OK, f"another name of {AGENT_UNIT}")
    if unit.load in ("not-found", "masked"):
        words = f"{_state(unit)}; the agent goes by its first name alone"
        return Finding(_subject(unit), Level.WARNING, words, "systemctl daemon-reload")
    level = Level.WARNING
    words = f"a unit of another package, or of yours; {_state(unit)}"
    return Finding(_subject(unit), level, words, "see `Taking over` in docs/operations.md")


def _examine_guard(unit: survey.Unit) -> Finding:
    if unit.active == "active":
        return Finding(_subject(unit), Level.OK, _state(unit))
    words = f"{_state(unit)}: a host that has joined is open while the agent's rules are not there"
    return Finding(_subject(unit), Level.WRONG, words, "systemctl restart istio-hostagent")


def _examine_node_agent(unit: survey.Unit) -> Finding:
    if unit.known == OUR_NODE_AGENT:
        words = f"{_state(unit)}; the agent keeps the certificate either way"
        return Finding(_subject(unit), Level.OK, words)
    if unit.load in ("not-found", "masked"):
        words = f"{_state(unit)}; the agent keeps the certificate without it"
        return Finding(_subject(unit), Level.WARNING, words, "systemctl daemon-reload")
    words = f"a unit of another package, or of yours; {_state(unit)}"
    return Finding(_subject(unit), Level.WARNING, words, "see `Taking over` in docs/operations.md")


def _examine_secrets(unit: survey.Unit) -> Finding:
    if unit.active == "active":
        return Finding(_subject(unit), Level.OK, f"{_state(unit)}: the socket is there")
    advice = f"systemctl start {unit.name}"
    return Finding(_subject(unit), Level.WARNING, f"{_state(unit)}: Envoy gets files", advice)


def _state(unit: survey.Unit) -> str:
    words = [unit.active] if unit.load == "loaded" else [unit.load]
    return ", ".join(words + ([unit.enabled] if unit.enabled else []))


def examine_ports(seen: Seen) -> Iterator[Finding]:
    """Whether somebody else has a port at which captured connections arrive."""
    part: Mapping[str, Any] = (seen.status or {}).get("capture_ports") or {}
    holders = {each.port: each for each in seen.holders}
    for each in seen.holders:
        who = f"{each.program} (pid {each.pid}" if each.pid else "a program (not seen"
        words = f"{each.port} belongs to {who}, uid {each.uid})"
        yield Finding("ports", Level.WRONG, words, HINTS["port-taken"], "port-taken")
    taken = part.get("taken_by")
    if taken and taken["port"] not in holders:
        who = f"{taken['program'] or 'a program'} of {taken['user'] or taken['uid']}"
        words = f"{taken['port']} belongs to {who}"
        yield Finding("ports", Level.WRONG, words, HINTS["port-taken"], "port-taken")
    elif not seen.holders and seen.unheld:
        yield Finding("ports", Level.UNSEEN, seen.unheld)
    elif not seen.holders and part.get("state") == "held":
        ports = ", ".join(map(str, part["ports"]))
        yield Finding("ports", Level.OK, f"{ports} are kept for the proxy")
    elif not seen.holders and seen.config is not None:
        words = "nobody but the proxy has one of those that it needs"
        if part.get("last_error"):
            words += f"; they cannot be kept for it: {part['last_error']}"
            yield Finding("ports", Level.WARNING, words)
        else:
            yield Finding("ports", Level.OK, words)
    elif not seen.holders:
        words = "no configuration says which" if seen.is_root else NEEDS_ROOT
        yield Finding("ports", Level.UNSEEN, words)


def examine_kernel(seen: Seen) -> Iterator[Finding]:
    """Whether the machine has what the agent needs of it."""
    for each in seen.features:
        level = Level.OK if each.is_there else Level.WRONG
        code = "" if each.is_there else "host-unsupported"
        yield Finding(each.name, level, each.words, each.advice, code)


def examine_dnsmasq(seen: Seen) -> Iterator[Finding]:
    """Whether each name of `kubedns` is answered as it says, where that is in force."""
    for name, said in seen.kubedns:
        if said:
            advice = "istio-hostagent kubedns shows all; journalctl -u dnsmasq"
            yield Finding(f"kubedns {name}", Level.WRONG, said, advice, "names-unanswered")
        else:
            yield Finding(f"kubedns {name}", Level.OK, "answered as the file says")


def examine_others(seen: Seen) -> Iterator[Finding]:
    """Other agents of Istio's on this host, and what they have left."""
    subject = "other agents"
    is_any = False
    for unit in seen.predecessors:
        is_any = True
        words = f"{unit} of Istio's own package runs"
        advice = "the agent takes its place once it can join: istio-hostagent status says what"
        yield Finding(subject, Level.WARNING, words, advice)
    for each in seen.strangers:
        is_any = True
        words = f"{each.program} (pid {each.pid}, {each.group}) is not of this agent"
        yield Finding(subject, Level.WARNING, words, f"systemctl status {each.pid} says whose")
    part: Mapping[str, Any] = (seen.status or {}).get("redirection") or {}
    left = part.get("left_by_istio") or seen.left
    if left:
        is_any = True
        code = "not-taken-over"
        yield Finding(subject, Level.WRONG, f"left in the tables: {left}", HINTS[code], code)
    if not is_any:
        unseen = seen.unsearched if seen.is_root else NEEDS_ROOT
        level = Level.UNSEEN if unseen else Level.OK
        yield Finding(subject, level, unseen or "no unit, process or rule of one is here")
