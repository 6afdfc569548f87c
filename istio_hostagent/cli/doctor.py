"""Look at everything that a host in the mesh needs: one line for each, with what to do.

Units, files, names, token, root certificates, clock, the way to the CA and to the control plane,
the certificate, ports, the kernel, packet rules, the proxy, dnsmasq, other agents. Nothing is
changed; nothing is sent to anybody but the control plane and the CA of the configuration, for five
seconds at most. It needs no agent. Without root it says what it could not see.

Exit status: 0 if nothing is wrong, 1 if something is; warnings are not wrong.
"""

import importlib
import json
import os
from collections.abc import Iterator
from typing import Any

from ..errors import HostAgentError
from . import answer, status
from .options import Option, Values

OPTIONS = (Option("json", "for programs"),)
_WORDS = {"ok": "ok", "warning": "warn", "wrong": "BAD", "unseen": "?"}
_VERIFY_S = 90.0


def execute(values: Values) -> int:
    """Print each finding as it comes."""
    findings = []
    for each in _examine():
        findings.append(each)
        if not values["json"]:
            print(_render(each), flush=True)
    examination: Any = importlib.import_module("..agent.examination", __package__)
    is_fine = examination.is_fine(findings)
    if values["json"]:
        listed = [each.to_json() for each in findings]
        print(json.dumps({"version": 1, "fine": is_fine, "findings": listed}, indent=1))
    return 0 if is_fine else 1


def _render(found: Any) -> str:
    line = f"{_WORDS[found.level.value]:<4}  {found.subject}: {found.words}"
    return f"{line}\n        {found.advice}" if found.advice else line


def _examine() -> Iterator[Any]:
    start: Any = importlib.import_module("..agent.oneshot.start", __package__)
    doctor: Any = importlib.import_module("..agent.oneshot.doctor", __package__)
    told = doctor.Told()
    try:
        report, is_whole = status.obtain()
        told = told._replace(status=report, is_whole=is_whole)
    except HostAgentError as error:
        told = told._replace(silence=error.message)
    told = _verify(told)
    reading, unread = None, ""
    try:
        reading = start.begin(os.environ)
    except HostAgentError as error:
        unread = error.text
    yield from doctor.perform(os.environ, reading, unread, told)


def _verify(told: Any) -> Any:
    """Have packets sent, by the agent where one runs."""
    if not told.is_whole:
        return told
    try:
        if told.status is not None:
            asked = answer.demand("verify", timeout_s=_VERIFY_S)
            return told._replace(verification=asked["verification"])
        return told._replace(verification=answer.alone("verify", os.environ))
    except HostAgentError as error:
        return told._replace(unverified=error.message)
