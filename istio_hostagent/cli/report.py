"""The status report as a table for people, on one screen."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..hints import HINTS
from ..host import clock

# So many refused resources are named.
_MOST = 3
# Parts that nothing waits for.
_AT_EASE = (
    ("outputs", "certificate for others"),
    ("renew_hook", "renewal hook"),
    ("registration", "registry of services"),
    ("catalogue", "services elsewhere"),
)
_MANY = 8
_DETAILS = ("stuck", "problem", "warning", "note")


def render(status: dict[str, Any]) -> str:
    """Return the table; every line names what is wrong with its part, if anything."""
    certificate = status["certificate"]
    proxy = status["proxy"]
    redirection = status["redirection"]
    configuration = status["configuration"]
    said = status["summary"]
    rows = [
        ("mesh", said),
        ("host", _host(status)),
        ("configuration", _configuration(configuration)),
        ("redirection", _with(_redirection(redirection), redirection["last_error"], said)),
        *_captured(redirection),
        ("identity", certificate["identity"] or "none yet"),
        ("certificate", _with(certificate_line(certificate), certificate["last_error"], said)),
        ("proxy", _with(_proxy(proxy), proxy["last_error"], said)),
    ]
    if credentials := certificate.get("credentials"):
        rows.insert(-1, ("credentials", _credentials_line(credentials)))
    rejected = status["control_plane"].get("rejected", [])
    if status["control_plane"]["state"] != "none":
        rows.append(("control plane", _control_plane(status["control_plane"], said)))
    rows += [("warning", f"the proxy refused {_refusal(each)}") for each in rejected[:_MOST]]
    if len(rejected) > _MOST:
        rows.append(("warning", f"the proxy refused {len(rejected) - _MOST} more: see --json"))
    served = status.get("served_certificate", {})
    if served.get("last_error") and served["last_error"] not in said:
        rows.append(("note", f"which certificate the proxy shows: {served['last_error']}"))
    if status.get("encryption"):
        rows.append(("encryption", status["encryption"]))
    if redirection["repaired"]:
        rows.append(("repaired", f"{_times(redirection['repaired'])} since the agent started"))
    if taken := redirection.get("taken_over"):
        rows.append(("taken over", ", ".join(taken)))
    if left := redirection.get("left_by_istio"):
        rows.append(("warning", left))
    if instances := status.get("registration", {}).get("instances"):
        rows.append(("registered", ", ".join(each["id"] for each in instances)))
    if destinations := status.get("catalogue", {}).get("destinations"):
        more = f" and {len(destinations) - _MANY} more" if len(destinations) > _MANY else ""
        rows.append(("services at", f"{', '.join(destinations[:_MANY])}{more}"))
    for name, what in _AT_EASE:
        if failed := status.get(name, {}).get("last_error"):
            rows.append(("warning", f"{what}: {failed}"))
    rows += [("stuck", text) for text in status.get("stuck", ())]
    rows += [("problem", problem) for problem in configuration["problems"]]
    rows += [("warning", warning) for warning in configuration["warnings"]]
    if late := status.get("watching", {}).get("last_error"):
        rows.append(("warning", f"changed files are noticed some seconds late: {late}"))
    rows += [("note", finding) for finding in _differences(redirection)]
    if events := status.get("last_events"):
        rows.append(("last event", _event(events[-1], "\n".join(text for _, text in rows))))
    rows += _what_to_do(status.get("causes", ()))
    # What the first row says is not said again, nor anything else twice.
    shown = [row for row in rows[1:] if row[1] not in said or row[0] not in _DETAILS]
    unique = dict.fromkeys([rows[0], *shown])
    return "\n".join(f"{name:<14} {text}" for name, text in unique)


def _host(status: dict[str, Any]) -> str:
    state = "in the mesh" if status["in_mesh"] else "not in the mesh"
    return (
        f"{status['host']}, {state} since {moment(status['since'])}; istio-hostagent"
        f" {status['product']} runs since {moment(status['started'])}, pid {status['pid']}"
    )


def _configuration(part: dict[str, Any]) -> str:
    own, *shared = part["files"]
    return f"{part['state']} ({', '.join((*shared, own))})"


def _captured(part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not part["mode"]:
        return
    inbound = f"{part['inbound']}, {part['mode']}" if part["inbound"] else "nothing is captured"
    yield "inbound", inbound
    yield "outbound", part["outbound"] or "nothing is captured"


def _event(event: dict[str, Any], said: str) -> str:
    """When and what, without what other rows say."""
    text = event["text"]
    if text in said:
        text = ""
    elif (parts := text.partition(": "))[2].partition(" (")[0] in said:
        text = parts[0]
    named = f"{text} ({event['code']})" if text and event["code"] else text or event["code"]
    return f"{moment(event['at'])}: {named}"


def _what_to_do(causes: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What helps with each cause, by its name; the words of the cause are in the other rows."""
    for cause in causes:
        if hint := HINTS.get(cause["code"]):
            yield "to do", f"{cause['code']}: {hint}"


def render_public(status: dict[str, Any]) -> str:
    """Return the table for users who are not root, of what the agent publishes."""
    certificate, redirection = status["certificate"], status["redirection"]
    rows = [
        ("mesh", status["summary"]),
        ("host", _host(status)),
        ("configuration", _configuration(status["configuration"])),
        ("redirection", redirection["state"]),
        *_captured(redirection),
        ("identity", certificate["identity"] or "none yet"),
        ("certificate", certificate_line(certificate)),
        ("proxy", f"{status['proxy']['kind']} {status['proxy']['state']}"),
    ]
    if status["control_plane"]["state"] != "none":
        rows.append(("control plane", _control_plane(status["control_plane"], "")))
    if status["encryption"]:
        rows.append(("encryption", status["encryption"]))
    rows += _what_to_do(status["causes"])
    rows.append(("note", "root sees more"))
    return "\n".join(f"{name:<14} {text}" for name, text in rows)


def render_unconfirmed(said: str, found: dict[str, Any]) -> str:
    """Return the table where no agent runs; `found`: rules that wait for confirmation, or did."""
    rows = [("mesh", said), ("unconfirmed", found["summary"])]
    rows += [("to decide", found["hint"])] if found["hint"] else []
    return "\n".join(f"{name:<14} {text}" for name, text in rows)


def _with(state: str, last_error: str, said: str) -> str:
    return state if not last_error or last_error in said else f"{state}: {last_error}"


def _redirection(part: dict[str, Any]) -> str:
    """The state; what this host cannot test is no error of its own, and `verify` names it."""
    if not part.get("managed", True):
        return "up to rules of your own, not tested (ISTIO_CUSTOM_IP_TABLES)"
    if part["state"] == "none":
        return "none, applications speak to the proxy by themselves"
    untested = part.get("untested", len(part["findings"]) - len(_differences(part)))
    state = str(part["state"])
    if part["proven_at"] is not None:
        state += f", packets sent last {moment(part['proven_at'])}"
    if part["back_end"]:
        state += f", {part['back_end']}"
    if not untested:
        return state
    return f"{state}, {untested} not testable here (istio-hostagent verify names them)"


def _differences(part: dict[str, Any]) -> list[str]:
    return [text for text in part["findings"] if not text.startswith("not testable")]


def certificate_line(part: dict[str, Any]) -> str:
    """What is held, until when, and when it is renewed."""
    if part["state"] == "none":
        if part["next_attempt"] is None or not part["failures"]:
            return "none"
        return f"none, next try {moment(part['next_attempt'])} or when a file changes"
    until = moment(part["not_after"])
    renewal = moment(part["next_attempt"])
    how = "expired since" if part["state"] == "expired" else f"{part['state']} until"
    line = f"{how} {until}, serial {part['serial']}"
    if renewed_by := part.get("renewed_by"):
        return f"{line}, renewed by {renewed_by}"
    if part.get("renewal") == "failing":
        since = moment(part["failing_since"])
        return f"{line}, renewal fails since {since}, next try {renewal} or when a file changes"
    return f"{line}, next renewal {renewal}"


def _credentials_line(credentials: list[dict[str, Any]]) -> str:
    """What may be shown to the CA, the one that is tried first in front."""
    return ", ".join(map(_credential, credentials))


def _credential(part: dict[str, Any]) -> str:
    if part["state"] == "unknown":
        return f"{part['kind']} (not needed so far)"
    until = f" until {moment(part['until'])}" if part["until"] is not None else ""
    reason = f" ({part['reason']})" if part["reason"] else ""
    return f"{part['kind']} {part['state']}{'' if reason else until}{reason}"


def _proxy(part: dict[str, Any]) -> str:
    pid = f", pid {part['pid']}" if part["pid"] else ""
    starts = f", started {_times(part['starts'])}" if part["starts"] > 1 else ""
    return f"{part['kind']} {part['state']}{pid}{starts}"


def _control_plane(part: dict[str, Any], said: str) -> str:
    instant = part["away_since"] if part["state"] == "away" else part.get("connected_since")
    since = f" since {moment(instant)}" if instant is not None else ""
    return _with(f"{part['state']}{since}", part.get("last_error", ""), said)


def _refusal(part: dict[str, str]) -> str:
    """What istiod sent and the proxy does not take."""
    return f"{part['kind']} {part['name']}: {part['reason']}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def moment(unix_s: float | None) -> str:
    """An instant for people."""
    if unix_s is None:
        return "now"
    return clock.utc_text(unix_s, "%Y-%m-%d %H:%M:%S UTC")
