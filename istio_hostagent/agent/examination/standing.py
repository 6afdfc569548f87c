"""How the host stands, by what its agent says and what packets have shown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...hints import HINTS
from .finding import NEEDS_ROOT, Finding, Level, first_of, length, moment
from .seen import Seen

_START = "systemctl start istio-hostagent; journalctl -u istio-hostagent says why it has ended"
_MORE = "istio-hostagent status, and journalctl -u istio-hostagent, say more"
_RULES, _PROXY, _CERTIFICATE = "packet rules", "proxy", "certificate"
_CONTROL_PLANE, _AGENT, _CONFIGURATION = "control plane", "agent", "configuration"
# The findings that have the details of a part of the report.
_PARTS = {
    "redirection": _RULES,
    "proxy": _PROXY,
    "certificate": _CERTIFICATE,
    "control_plane": _CONTROL_PLANE,
    "configuration": _CONFIGURATION,
    "served_certificate": _PROXY,
}


def examine_agent(seen: Seen) -> Iterator[Finding]:
    """Whether it runs, is of the installed version, and has what it needs."""
    if seen.status is None:
        yield Finding(_AGENT, Level.WRONG, seen.silence, _START, "agent-unreachable")
        return
    status = seen.status
    words = f"{status['product']} runs since {moment(status['started'])}, pid {status['pid']}"
    if status["product"] != seen.version:
        said = f"{words}, but {seen.version} is installed"
        yield Finding(_AGENT, Level.WARNING, said, "systemctl restart istio-hostagent")
    elif not status["in_control"]:
        yield Finding(_AGENT, Level.WARNING, f"{words}; {status['summary']}")
    else:
        yield Finding(_AGENT, Level.OK, words)
    if status["in_mesh"]:
        yield Finding("mesh", Level.OK, f"in the mesh since {moment(status['since'])}")
    else:
        yield Finding("mesh", Level.WRONG, status["summary"], "the lines below say why")


def examine_configuration(seen: Seen) -> Iterator[Finding]:
    """What the files say, and whether that is in force."""
    state, files = "", ""
    problems, warnings = seen.problems, seen.warnings
    if seen.status is not None:
        part = seen.status["configuration"]
        state, files = part["state"], ", ".join(part["files"])
        problems = tuple(part.get("problems", problems))
        warnings = tuple(part.get("warnings", warnings))
    for each in problems:
        yield Finding(_CONFIGURATION, Level.WRONG, each, HINTS["config-invalid"], "config-invalid")
    for each in warnings:
        yield Finding(_CONFIGURATION, Level.WARNING, each)
    match state:
        case "accepted":
            yield Finding(_CONFIGURATION, Level.OK, f"in force: {files}")
        case "waiting":
            words = "there is none yet"
            yield Finding(_CONFIGURATION, Level.WRONG, words, HINTS["config-missing"])
        case "trial":
            yield Finding(_CONFIGURATION, Level.WARNING, "another one is being tried")
        case "kept":
            words = "the files are not in force, but what was accepted before"
            yield Finding(_CONFIGURATION, Level.WRONG, words, HINTS["rejected"])
        case "":
            yield from _examine_files(seen)
        case _ if not problems:
            yield Finding(_CONFIGURATION, Level.WRONG, state, HINTS["config-invalid"])


def _examine_files(seen: Seen) -> Iterator[Finding]:
    """Without an agent: only what they say."""
    if seen.unread:
        yield Finding(_CONFIGURATION, Level.UNSEEN, seen.unread)
    elif seen.config is not None:
        yield Finding(_CONFIGURATION, Level.OK, "the files are valid; no agent has them in force")
    elif not seen.problems:
        yield Finding(_CONFIGURATION, Level.WRONG, "there is none yet", HINTS["config-missing"])


def examine_certificate(seen: Seen) -> Iterator[Finding]:
    """Whether one is held that is good, and whether it will be renewed."""
    if seen.status is None:
        yield Finding(_CERTIFICATE, Level.UNSEEN, "no agent says which one is held")
        return
    part = seen.status["certificate"]
    last_error = part.get("last_error", "")
    if part["not_after"] is None:
        words = f"none is held: {last_error}" if last_error else "none is held"
        yield Finding(_CERTIFICATE, Level.WRONG, words, _hint(seen, "certificate"))
        return
    left = part["not_after"] - seen.now
    if left <= 0:
        words = f"it has ended {length(-left)} ago"
        yield Finding(_CERTIFICATE, Level.WRONG, words, _hint(seen, "certificate"))
        return
    words = f"{part['identity']}, until {moment(part['not_after'])}"
    if part["renewal"] == "failing":
        since = moment(part["failing_since"])
        said = f"{words}, but renewal fails since {since}"
        said += f": {last_error}" if last_error else ""
        yield Finding(_CERTIFICATE, Level.WARNING, said, _hint(seen, "certificate"))
        return
    if last_error:
        yield Finding(_CERTIFICATE, Level.WARNING, f"{words}; {last_error}")
        return
    due = part["next_attempt"]
    yield Finding(_CERTIFICATE, Level.OK, f"{words}; next renewal {moment(due)}" if due else words)


def examine_rules(seen: Seen) -> Iterator[Finding]:
    """Whether they are there and packets have shown what they do, now."""
    part = seen.status["redirection"] if seen.status is not None else None
    if part is not None and part["state"] == "none":
        words = "nothing is redirected, none are there (ISTIO_HOSTAGENT_REDIRECT=none)"
        yield Finding(_RULES, Level.OK, words)
        return
    if part is not None and not part["managed"]:
        words = "they are the operator's own (ISTIO_CUSTOM_IP_TABLES): nothing shows what they do"
        yield Finding(_RULES, Level.WARNING, words)
        return
    if seen.verification is not None:
        yield from _examine_verification(seen, seen.verification)
    elif part is not None and seen.unverified:
        last = f", {moment(part['proven_at'])}" if part["proven_at"] else ""
        words = f"no packets could be sent now: {seen.unverified}; before, {part['state']}{last}"
        yield Finding(_RULES, Level.WARNING, words, "istio-hostagent verify tries it again")
    elif part is not None and part["state"] == "proven":
        yield Finding(_RULES, Level.OK, f"shown by packets {moment(part['proven_at'])}")
    elif part is not None and part["state"].startswith("proven"):
        words = f"{part['state']}, {moment(part['proven_at'])}"
        yield Finding(_RULES, Level.WARNING, words, "istio-hostagent verify names the rest")
    elif part is not None:
        yield Finding(_RULES, Level.WRONG, part["state"], _hint(seen, "redirection"))
    else:
        yield Finding(_RULES, Level.UNSEEN, seen.unverified or NEEDS_ROOT)
    if part is not None and part.get("last_error"):
        code = _code(seen, "redirection")
        yield Finding(_RULES, Level.WRONG, part["last_error"], HINTS.get(code, _MORE), code)


def _examine_verification(seen: Seen, found: Mapping[str, Any]) -> Iterator[Finding]:
    wrong = [*found["differences"], *found["second_reader"], *found["broken"]]
    if wrong:
        advice = "istio-hostagent verify lists all; systemctl reload istio-hostagent puts them in"
        yield Finding(_RULES, Level.WRONG, first_of(wrong), advice, "not-proven")
        return
    met, rest = len(found["kept"]), found["not_testable"]
    if not met and not rest:
        config = seen.config
        if config is not None and config.redirection.captures:
            words = "there are none, and the configuration wants some"
            yield Finding(_RULES, Level.WRONG, words, _hint(seen, "redirection"))
        else:
            words = "the configuration captures nothing: neither ports nor networks are named"
            advice = "ISTIO_SERVICE_CIDR and ISTIO_INBOUND_PORTS, in istio-hostagent.env(5)"
            yield Finding(_RULES, Level.WARNING, words, advice)
        return
    words = f"read back equal by two decoders, {met} expectations met by packets just now"
    if not met:
        said = f"no packet could show what they do: {first_of(rest)}"
        yield Finding(_RULES, Level.WARNING, said, "istio-hostagent verify lists all")
    else:
        level = Level.WARNING if _is_in_part(seen) else Level.OK
        said = f"{words}; not testable here: {first_of(rest)}" if rest else words
        yield Finding(_RULES, level, said)


def _is_in_part(seen: Seen) -> bool:
    """Whether something could not be tested in a family of which this host has an address."""
    return seen.status is not None and bool(seen.status["redirection"].get("untested"))


def examine_proxy(seen: Seen) -> Iterator[Finding]:
    """Whether it serves, and by the certificate that is held."""
    if seen.status is None:
        found = seen.verification
        if found is not None and found["proxy"]["last_error"]:
            is_wrong = found["proxy"]["required"]
            level = Level.WRONG if is_wrong else Level.WARNING
            yield Finding(_PROXY, level, found["proxy"]["last_error"])
        else:
            yield Finding(_PROXY, Level.UNSEEN, "no agent looks after it")
        return
    part, served = seen.status["proxy"], seen.status["served_certificate"]
    kind = part["kind"]
    if part["state"] != "ready" or part.get("closed_ports"):
        closed = ", ".join(map(str, part.get("closed_ports", ())))
        words = f"{kind}: it does not listen on {closed}" if closed else f"{kind}: {part['state']}"
        if part.get("last_error"):
            words += f": {part['last_error']}"
        code = _code(seen, "proxy")
        yield Finding(_PROXY, Level.WRONG, words, HINTS.get(code, _MORE), code)
        return
    where = f", pid {part['pid']}" if part.get("pid") else ""
    where += f", in {part['unit']}" if part.get("unit") else ""
    words = f"{kind} is ready{where}"
    match served["state"]:
        case "held":
            yield Finding(_PROXY, Level.OK, f"{words}; shows the certificate that is held")
        case "other":
            said = served.get("last_error") or "it shows another certificate than the one held"
            yield Finding(_PROXY, Level.WRONG, said, HINTS["not-shown"], "not-shown")
        case _ if served.get("last_error"):
            said = f"which certificate it shows is not known: {served['last_error']}"
            yield Finding(_PROXY, Level.WARNING, f"{words}; {said}")
        case _:
            # Not asked yet, or no listener of it shows one.
            yield Finding(_PROXY, Level.OK, f"{words}; which certificate it shows it does not say")


def examine_control_plane(seen: Seen) -> Iterator[Finding]:
    """Whether the proxy is connected to it, as the proxy says itself."""
    if seen.status is None:
        return
    part = seen.status["control_plane"]
    match part["state"]:
        case "connected":
            since = part["connected_since"]
            when = f" since {moment(since)}" if since else ""
            yield Finding(_CONTROL_PLANE, Level.OK, f"the proxy is connected to it{when}")
        case "away":
            words = f"the proxy has had no connection since {moment(part['away_since'])}"
            if part["last_error"]:
                words += f": {part['last_error']}"
            code = "control-plane-away"
            yield Finding(_CONTROL_PLANE, Level.WRONG, words, HINTS[code], code)
        case "none":
            words = "this proxy has none: its own keys say what becomes of traffic"
            yield Finding(_CONTROL_PLANE, Level.OK, words)
        case _:
            words = "the proxy does not tell whether it is connected"
            yield Finding(_CONTROL_PLANE, Level.WARNING, words)
    for each in part.get("rejected", ()):
        words = f"the proxy refused {each['kind']} {each['name']}: {each['reason']}"
        yield Finding(_CONTROL_PLANE, Level.WARNING, words, HINTS["not-taken"], "not-taken")


def examine_rest(seen: Seen, found: Sequence[Finding]) -> Iterator[Finding]:
    """Whatever else the agent says to be wrong: no line is good over what is not."""
    if seen.status is None:
        return
    wrong = [each for each in found if each.level is Level.WRONG]
    for cause in seen.status["causes"]:
        text = cause.get("text", "")
        subject = _PARTS.get(cause["part"], cause["part"].replace("_", " "))
        is_said = any(text in each.words for each in found) if text else False
        is_named = any(each.code == cause["code"] for each in wrong)
        if not (is_said or is_named):
            words = text or cause["code"]
            yield Finding(
                subject, Level.WRONG, words, HINTS.get(cause["code"], _MORE), cause["code"]
            )


def _code(seen: Seen, part: str) -> str:
    """The name of what is wrong with a part, by the agent."""
    causes = seen.status["causes"] if seen.status is not None else ()
    return next((str(each["code"]) for each in causes if each["part"] == part), "")


def _hint(seen: Seen, part: str) -> str:
    return HINTS.get(_code(seen, part), _MORE)
