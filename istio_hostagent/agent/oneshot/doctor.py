"""`doctor`: everything that a host in the mesh needs is looked at once, and nothing is changed.

What the agent says and what its packets have shown comes from the caller, who has asked it. The
way to the control plane is tried by a worker as istio-proxy, whose traffic no rule captures. Not
here: what is made of it (`agent.examination`).
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ... import __version__
from ...config import model
from ...errors import HostAgentError
from ...host import (
    certificatefiles,
    clock,
    controlgroups,
    files,
    glance,
    instances,
    kubedns,
    layers,
    mounts,
    predecessor,
    processes,
    sights,
    survey,
    users,
)
from ...host.answers import reach
from .. import examination, issuance, programs
from ..examination import finding, machine, seen, way
from . import configuration

_WORKER = "reach"
# For all calls together, which are made at once; the worker is given up a little later.
_CALLS_S = 5.0
_SPARE_S = 5.0


class Told(NamedTuple):
    """What the agent has said, and why it has not; as in `examination.seen.Seen`."""

    status: Mapping[str, Any] | None = None
    is_whole: bool = True
    silence: str = ""
    verification: Mapping[str, Any] | None = None
    unverified: str = ""


class _Files(NamedTuple):
    """What the files say, as in `examination.seen.Seen`; `facts`: None without the user."""

    config: model.Config | None = None
    facts: model.HostFacts | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unread: str = ""


def perform(
    environment: Mapping[str, str], reading: layers.Reading | None, unread: str, told: Told
) -> Iterator[finding.Finding]:
    """Give each finding as it is made; `unread`: why there is no reading of the files."""
    may_see = os.geteuid() == 0 or instances.is_users()
    read = _Files(unread=unread) if reading is None else _read(environment, reading)
    found = seen.Seen(
        now=clock.SystemClock().now(),
        version=__version__,
        is_root=may_see,
        **told._asdict(),
        config=read.config,
        problems=read.problems,
        warnings=read.warnings,
        unread=read.unread,
        units=() if instances.own() else survey.find_units(machine.UNITS),
        features=tuple(_find_features(read, may_see=may_see)),
        kubedns=_ask_kubedns(),
    )
    found = _with_ports(found, read)
    found = _with_way(found, read)
    yield from examination.examine(_with_others(found))


def _read(environment: Mapping[str, str], reading: layers.Reading) -> _Files:
    try:
        loaded, facts, _ = configuration.load(environment, reading)
    except HostAgentError as error:
        return _Files(unread=error.text)
    return _Files(
        loaded.config,
        facts,
        tuple(map(str, loaded.problems)),
        tuple(map(str, loaded.warnings)),
    )


def _find_features(read: _Files, *, may_see: bool) -> Iterator[survey.Feature]:
    yield _find_user()
    is_named = bool(instances.own())
    yield from survey.find_features(is_root=may_see and not is_named)
    if read.config is None:
        return
    kind, binary = programs.find(read.config.proxy, files.is_program)
    if binary is not None:
        yield survey.Feature("proxy program", True, f"{binary} ({kind.value})")
        return
    places = ", ".join(programs.places(read.config.proxy, kind))
    advice = "install istio-sidecar or Envoy, or name the program: ISTIO_HOSTAGENT_ENVOY"
    yield survey.Feature("proxy program", False, f"none of {places} can be run", advice)


def _find_user() -> survey.Feature:
    try:
        uid, gid = users.probe_user()
    except HostAgentError as error:
        return survey.Feature("user", False, error.message, "systemd-sysusers")
    return survey.Feature("user", True, f"the proxy runs with uid {uid} and gid {gid}")


def _ask_kubedns() -> tuple[tuple[str, str], ...]:
    """The names of the file that is in force, each with what is wrong with its answer."""
    path = kubedns.find_installed()
    if path is None:
        return ()
    try:
        answers = kubedns.look(path).answers
    except HostAgentError as error:
        return (("", error.message),)
    return tuple((entry.name, said) for entry, said in answers if said is not None)


def _with_ports(found: seen.Seen, read: _Files) -> seen.Seen:
    if read.config is None or read.facts is None:
        return found
    redirection, proxy = read.config.redirection, read.config.proxy
    own = () if redirection.is_none else redirection.answer_ports
    try:
        ports = {*own, proxy.status_port}
        return found._replace(holders=survey.find_holders(ports, read.facts.proxy_uid))
    except HostAgentError as error:
        return found._replace(unheld=error.message)


def _with_way(found: seen.Seen, read: _Files) -> seen.Seen:
    """Call the ends of the way, as istio-proxy."""
    if read.config is None or read.facts is None:
        return found
    if not found.is_root:
        return found._replace(unreached=f"{finding.NEEDS_ROOT}: other users reach the proxy here")
    kind = (found.status or {}).get("proxy", {}).get("kind")
    if kind is None:
        kind = programs.find(read.config.proxy, files.is_program)[0].value
    targets = way.find_targets(read.config, is_pilot_agent=kind == "pilot-agent")
    hosts = survey.find_hosts([each.host for each in targets])
    found = found._replace(targets=targets, hosts=hosts)
    request = _make_request(read.config, read.facts, targets)
    user = processes.User(read.facts.proxy_uid, read.facts.proxy_gid)
    try:
        answer: reach.Reached = processes.Worker(_WORKER, request, user=user).run(
            _CALLS_S + _SPARE_S
        )
    except (HostAgentError, OSError) as error:
        return found._replace(unreached=f"it could not be looked at: {error}")
    return found._replace(reached=answer)


def _make_request(
    config: model.Config, facts: model.HostFacts, targets: tuple[seen.Target, ...]
) -> dict[str, Any]:
    directory = config.identity.output_dir
    certificates = certificatefiles.CertificateFiles(
        facts.state_dir, sights.Sights(mounts.Mounts())
    )
    try:
        stores = {output: store for store, output in certificates.find_stores()}
    except OSError:
        stores = {}  # nothing was ever obtained here
    calls = [
        {"host": each.host, "port": each.port, "names": each.names, "kind": each.kind}
        for each in targets
    ]
    return {
        "certificate": issuance.make_request(
            config.identity, "inspect", stores.get(directory, facts.state_dir)
        ),
        "timeout_s": _CALLS_S,
        "calls": calls,
    }


def _with_others(found: seen.Seen) -> seen.Seen:
    """What of other agents is here; rules only without ours, which takes those over itself."""
    if not found.is_root:
        return found
    if instances.own():
        return found._replace(unsearched="not looked for: that is the matter of the unnamed agent")
    root = controlgroups.find_root()
    own = [pid for pid in _find_own(found.status) if pid]
    others = found._replace(
        predecessors=predecessor.find_running(root) if root else (),
        strangers=survey.find_strangers(own),
    )
    if found.status is not None:
        return others
    try:
        parts = glance.glance()
    except HostAgentError as error:
        return others._replace(unsearched=f"rules were not looked at: {error.message}")
    return others._replace(left=", ".join(f"rules in {each.value}" for each in parts))


def _find_own(status: Mapping[str, Any] | None) -> Iterator[int]:
    """Processes of the agent and its proxy: theirs are no strangers either."""
    if status is not None:
        yield status["pid"]
        yield status["proxy"].get("pid") or 0
