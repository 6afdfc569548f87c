"""The status report as a short table for people."""

from typing import Any

from ..host import clock

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
        ("configuration", configuration["state"]),
        ("redirection", _with(_redirection(redirection), redirection["last_error"], said)),
        ("certificate", _with(certificate_line(certificate), certificate["last_error"], said)),
        ("proxy", _with(_proxy(proxy), proxy["last_error"], said)),
    ]
    if status["control_plane"]["state"] != "none":
        rows.append(("control plane", _control_plane(status["control_plane"])))
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
    rows += [("stuck", text) for text in status.get("stuck", ())]
    rows += [("problem", problem) for problem in configuration["problems"]]
    rows += [("warning", warning) for warning in configuration["warnings"]]
    if late := status.get("watching", {}).get("last_error"):
        rows.append(("warning", f"changed files are noticed some seconds late: {late}"))
    rows += [("note", finding) for finding in _differences(redirection)]
    # What the first row says is not said again, nor anything else twice.
    shown = [row for row in rows[1:] if row[1] not in said or row[0] not in _DETAILS]
    unique = dict.fromkeys([rows[0], *shown])
    return "\n".join(f"{name:<14} {text}" for name, text in unique)


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
    untested = part.get("untested", len(part["findings"]) - len(_differences(part)))
    if not untested:
        return str(part["state"])
    return f"{part['state']}, {untested} not testable here (istio-hostagent verify names them)"


def _differences(part: dict[str, Any]) -> list[str]:
    return [text for text in part["findings"] if not text.startswith("not testable")]


def certificate_line(part: dict[str, Any]) -> str:
    """What is held, until when, and when it is renewed."""
    if part["state"] == "none":
        if part["next_attempt"] is None or not part["failures"]:
            return "none"
        return f"none, next try {_moment(part['next_attempt'])} or when a file changes"
    until = _moment(part["not_after"])
    renewal = _moment(part["next_attempt"])
    line = f"{part['state']} until {until}, serial {part['serial']}"
    if part.get("renewal") == "failing":
        since = _moment(part["failing_since"])
        return f"{line}, renewal fails since {since}, next try {renewal} or when a file changes"
    return f"{line}, next renewal {renewal}"


def _proxy(part: dict[str, Any]) -> str:
    pid = f", pid {part['pid']}" if part["pid"] else ""
    return f"{part['kind']} {part['state']}{pid}"


def _control_plane(part: dict[str, Any]) -> str:
    since = f" since {_moment(part['away_since'])}" if part["away_since"] is not None else ""
    return f"{part['state']}{since}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _moment(unix_s: float | None) -> str:
    if unix_s is None:
        return "now"
    return clock.utc_text(unix_s, "%Y-%m-%d %H:%M:%S UTC")
