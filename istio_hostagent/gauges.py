"""How a host stands as gauges and counters, in the text format of Prometheus.

Made of the report of `status`, whole or as it is published. What is not known has no sample.
Source of the form: prometheus.io/docs/instrumenting/exposition_formats.
"""

from collections.abc import Iterator
from typing import Any

PREFIX = "istio_hostagent_"

_Labels = tuple[tuple[str, str], ...]
_Sample = tuple[str, Any, str, _Labels]


def render(status: dict[str, Any]) -> str:
    """Return every gauge that has a value now, with its help; the last line has its end."""
    return _render(_list(status))


def render_silence(status: dict[str, Any] | None) -> str:
    """What is left to say where no agent runs, or a silent one: until when it is certified."""
    return _render(_list_silence(status))


def _render(samples: Iterator[_Sample]) -> str:
    lines: list[str] = []
    before = ""
    for name, value, about, labels in samples:
        if value is None:
            continue
        if name != before:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {PREFIX}{name} {about}", f"# TYPE {PREFIX}{name} {kind}"]
            before = name
        quoted = ",".join(f'{label}="{_quoted(text)}"' for label, text in labels)
        lines.append(
            f"{PREFIX}{name}{{{quoted}}} {_number(value)}"
            if quoted
            else f"{PREFIX}{name} {_number(value)}"
        )
    return "\n".join(lines) + "\n"


def _list(status: dict[str, Any]) -> Iterator[_Sample]:
    yield "up", 1, "1 while the agent runs and says how this host stands.", ()
    named = (("version", status["product"]), ("host", status["host"]))
    yield "info", 1, "The version that runs, and the host.", named
    yield "start_timestamp_seconds", status["started"], "When the agent started.", ()
    yield "in_mesh", status["in_mesh"], "1 while this host is in the mesh.", ()
    about = "1 while nothing is pending that needs no person."
    yield "in_control", status["in_control"], about, ()
    yield "joined", status["joined"], "1 while this host has joined, in the mesh or not.", ()
    for cause in status["causes"]:
        labels = (("part", cause["part"]), ("code", cause["code"]))
        yield "cause", 1, "What is wrong, by part and name of the error.", labels
    yield from _list_certificate(status["certificate"])
    about = "1 while the proxy shows another certificate than the one that is held."
    differs = {"held": 0, "other": 1}.get(status["served_certificate"]["state"])
    yield "certificate_served_differs", differs, about, ()
    yield from _list_redirection(status)
    yield "proxy_ready", status["proxy"]["state"] == "ready", "1 while the proxy is ready.", ()
    yield "proxy_starts_total", status["proxy"]["starts"], "Starts of the proxy.", ()
    state = status["control_plane"]["state"]
    connected = {"connected": 1, "away": 0}.get(state)
    yield "control_plane_connected", connected, "1 while the proxy has its control plane.", ()
    outputs = status["outputs"]
    # What everybody may see has the number alone.
    failed = sum(1 for each in outputs.get("files", ()) if each["last_error"])
    about = "Places of ISTIO_HOSTAGENT_OUTPUTS that could not be written."
    yield "outputs_failed", outputs.get("failed", failed), about, ()
    about = "Runs in a row of ISTIO_HOSTAGENT_RENEW_HOOK that failed."
    yield "renew_hook_failures", status["renew_hook"]["failures"], about, ()


def _list_certificate(part: dict[str, Any]) -> Iterator[_Sample]:
    about = "1 while a certificate is held that has not ended."
    yield "certificate_held", part["state"] == "held", about, ()
    about = "From when the certificate holds."
    yield "certificate_not_before_timestamp_seconds", part["not_before"], about, ()
    yield _not_after(part)
    about = "When it is renewed next, or looked at where somebody else renews it."
    yield "certificate_next_attempt_timestamp_seconds", part["next_attempt"], about, ()
    about = "Attempts in a row that gave no certificate."
    yield "certificate_renewal_failures", part["failures"], about, ()
    about = "The first of these attempts; absent while none has failed."
    yield "certificate_failing_since_timestamp_seconds", part["failing_since"], about, ()
    about = "Certificates obtained since the agent started."
    yield "certificate_obtained_total", part["obtained"], about, ()
    labels = (("identity", part["identity"]), ("serial", part["serial"]))
    yield "certificate_info", 1, "The certificate that is held.", labels


def _not_after(part: dict[str, Any]) -> _Sample:
    about = "Until when the certificate holds."
    return "certificate_not_after_timestamp_seconds", part["not_after"], about, ()


def _list_redirection(status: dict[str, Any]) -> Iterator[_Sample]:
    part = status["redirection"]
    about = "1 while packets show the rules, all or as far as this host can test them."
    is_ours = part["managed"] and part["state"] != "none"
    # Absent where no rule of ours is to be shown.
    is_proven = part["state"].startswith("proven") if is_ours else None
    yield "redirection_proven", is_proven, about, ()
    about = "When packets have shown the rules last."
    yield "redirection_last_proof_timestamp_seconds", part["proven_at"], about, ()
    about = "Changes of others to the rules that were put right since the agent started."
    yield "redirection_repaired_total", part["repaired"], about, ()
    about = "Connections that the rules handed to the proxy, since these were made."
    for direction, count in sorted((status["captured_connections"] or {}).items()):
        yield "captured_connections_total", count, about, (("direction", direction),)


def _list_silence(status: dict[str, Any] | None) -> Iterator[_Sample]:
    yield "up", 0, "1 while the agent runs and says how this host stands.", ()
    yield "in_mesh", 0, "1 while this host is in the mesh.", ()
    if status is not None:
        yield _not_after(status["certificate"])


def _number(value: float) -> str:
    # Whole numbers without an exponent: seconds since 1970 have ten digits.
    return f"{float(value):.3f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
