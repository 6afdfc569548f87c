"""Show the certificate of this host, or check files that are to be one.

Without --check: what readers find in the directory of OUTPUT_CERTS, when it is renewed, and
whether the proxy shows it. With --check: whether key, chain and roots fit together, and for which
identity; of one directory (key.pem, cert-chain.pem and root-cert.pem, or tls.key, tls.crt and
ca.crt), or files in any order, told apart by what is in them.

Exit status: 0 if it fits and the proxy is not known to show another, 1 if not.
"""

import importlib
import json
import os
from collections.abc import Mapping
from typing import Any

from ..errors import ChildFailed, ConfigInvalid, HostAgentError, NotPermitted, Problem, describe
from ..host import clock
from . import answer, report
from .options import Option, Values

OPTIONS = (
    Option("check", "a directory, or files", (), "PATH", is_list=True),
    Option("json", "for programs"),
)
_MANY = 8


def execute(values: Values) -> int:
    """Print what there is."""
    if values["check"]:
        found = _check(values["check"])
    else:
        asked = answer.ask("status", timeout_s=10.0)
        found = show(asked["status"] if asked is not None else {})
    print(json.dumps({"version": 1, **found}, indent=1) if values["json"] else render(found))
    served = found.get("served") or {}
    return 0 if found["fits"] and served.get("state") != "other" else 1


def _check(paths: list[str]) -> dict[str, Any]:
    look: Any = importlib.import_module("..host.certificatelook", __package__)
    try:
        return _to_json(look.check(paths))
    except OSError as error:
        place = error.filename or paths[0]
        raise NotPermitted(f"{place}: {describe(error)}") from error


def show(status: Mapping[str, Any]) -> dict[str, Any]:
    """What this host holds; `status`: that of the agent, empty where none runs."""
    held = status.get("certificate") or answer.alone("cert", os.environ)
    if not held.get("directory"):
        # An agent that has no configuration yet.
        problem = Problem("", 0, "no configuration yet: nobody says where the certificate is")
        raise ConfigInvalid((problem,))
    look: Any = importlib.import_module("..host.certificatelook", __package__)
    found = _to_json(look.look(held["directory"]))
    for key in ("directory", "renewed_in", "renewed_by"):
        found[key] = held.get(key, "")
    found["next_attempt"] = held.get("next_attempt")
    found["last_error"] = held.get("last_error", "")
    found["served"] = status.get("served_certificate")
    return found


def _to_json(found: Any) -> dict[str, Any]:
    """A `host.answers.certificateset.CertificateSet` as documented; raises HostAgentError."""
    if found.error is not None:
        raise (_Failed if found.error.code == ChildFailed.code else _Unreadable)(found.error)
    return {
        "fits": not found.faults,
        "identity": found.identity,
        "key": found.key,
        "chain": [each._asdict() for each in found.chain],
        "roots": [each._asdict() for each in found.roots],
        "faults": list(found.faults),
    }


class _Unreadable(HostAgentError):
    """The worker could not read them."""

    code = NotPermitted.code
    exit_status = NotPermitted.exit_status

    def __init__(self, error: Any) -> None:
        super().__init__(error.message, hint=error.hint)


class _Failed(_Unreadable):
    """The process that parses them ended badly, or said what makes no sense."""

    code = ChildFailed.code
    exit_status = ChildFailed.exit_status


def render(found: dict[str, Any]) -> str:
    """The table for people."""
    rows = [("fits", "yes" if found["fits"] else "no")]
    rows += [("fault", fault) for fault in found["faults"]]
    if found["identity"]:
        rows.append(("identity", found["identity"]))
    if found["chain"]:
        leaf = found["chain"][0]
        rows.append(("certificate", f"{_life(leaf)}, serial {leaf['serial']}"))
        rows.append(("sha256", leaf["fingerprint"]))
        rows.append(("issuer", leaf["issuer"] or "(an empty name)"))
        rows += [("below", _authority(each)) for each in found["chain"][1:_MANY]]
    if found["key"]:
        rows.append(("key", found["key"]))
    rows += [("root", _authority(each)) for each in found["roots"][:_MANY]]
    if (more := len(found["roots"]) - _MANY) > 0:
        rows.append(("root", f"and {more} more"))
    if "directory" in found:
        rows += _render_keeping(found)
    return "\n".join(f"{name:<14} {text}" for name, text in rows)


def _render_keeping(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("directory", found["directory"])]
    if found["renewed_by"]:
        rows.append(("renewal", f"by {found['renewed_by']}"))
    elif found["next_attempt"] is not None:
        rows.append(("renewal", f"next {report.moment(found['next_attempt'])}"))
    if found["last_error"]:
        rows.append(("problem", found["last_error"]))
    served = found["served"]
    if served is None:
        return [*rows, ("proxy", "not asked: no agent runs")]
    said = {"held": "shows this one", "other": served["last_error"] or "shows another"}
    unknown = f"not known: {served['last_error'] or 'not asked yet'}"
    return [*rows, ("proxy", said.get(served["state"], unknown))]


def _life(part: Mapping[str, Any]) -> str:
    return f"from {report.moment(part['not_before'])} until {report.moment(part['not_after'])}"


def _authority(part: Mapping[str, Any]) -> str:
    name = part["subject"] or "(an empty name)"
    until = clock.utc_text(part["not_after"], "%Y-%m-%d")
    return f"{name}, until {until}, sha256 {part['fingerprint']}"
