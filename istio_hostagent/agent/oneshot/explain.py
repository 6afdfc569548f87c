"""`explain`: what the rules make of one packet, and which line of which file is behind it.

The configuration is the one in force: what the agent has accepted, where one runs, else what the
files say. Everything comes from the model; the kernel is asked for routes and addresses alone,
unless a packet is to be sent (`live`).
"""

import importlib
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, NamedTuple

from ...config import build, model, units
from ...errors import KernelBusy, NotPermitted, WrongUsage, describe
from ...host import controlgroups, layers, rtnetlink, statefiles
from ...redirect import explanation, names, packets
from .. import here, reload
from . import configuration
from .question import Question

_PROTOCOLS = {"tcp": names.TCP, "udp": names.UDP}
_ORDINARY_ID = 65534  # nobody
_PROXY = "istio-proxy"


class _Known(NamedTuple):
    """The configuration in force, the facts that go with it, and what is to be said of it."""

    loaded: reload.Loaded
    redirection: model.Redirection
    facts: model.HostFacts
    notes: tuple[str, ...] = ()


def perform(
    environment: Mapping[str, str],
    reading: layers.Reading,
    *,
    question: Question,
    status: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Give version 1 of the machine-readable form; `status`: that of the agent, if one runs.

    Raises WrongUsage, ConfigInvalid, KernelBusy, NotPermitted.
    """
    known = _load(environment, reading, status)
    own = [each.address for each in rtnetlink.probe_addresses()]
    packet, notes = _make_packet(question, known.facts, own)
    there = {link.name for link in rtnetlink.probe_links()}
    if question.interface and question.interface not in there:
        notes.append(f"this host has no interface {question.interface} now")
    found = explanation.explain(known.redirection, known.facts, packet, own)
    live = None
    if question.is_live:
        # What it takes to send a packet is loaded only for this.
        sender = importlib.import_module(".live", __package__)
        live = sender.look(known.redirection, known.facts, packet, own).to_json()
    return explanation.to_json(found) | {
        "settings": _find_origins(known, found),
        "notes": [*known.notes, *notes],
        "live": live,
    }


def _load(
    environment: Mapping[str, str], reading: layers.Reading, status: Mapping[str, Any] | None
) -> _Known:
    """The configuration in force; ConfigInvalid where there is none."""
    if status is None:
        loaded, config, facts = configuration.require(environment, reading)
        return _Known(loaded, config.redirection, facts)
    facts, sources = here.probe_host(environment)
    read = reading.finish()
    data = _read_accepted(facts.state_dir)
    state = status["configuration"]["state"]
    kept = reload.load_accepted(reload.parse_layers(data, sources), facts)
    is_on_trial = state == "trial"
    loaded = reload.load(read, facts, ()) if kept is None or is_on_trial else kept
    if loaded.config is None:
        raise configuration.unusable(loaded, sources)
    redirection = loaded.config.redirection
    found = controlgroups.find(redirection.owners.units)
    facts = facts._replace(control_groups=found)
    closed = {*status["redirection"]["not_captured"]} & redirection.inbound.named
    redirection = redirection._replace(inbound_closed=tuple(sorted(closed)))
    if status["proxy"]["kind"] == "envoy" and status["proxy"]["binary"]:
        redirection = redirection._replace(dns=model.Dns())  # nobody would answer
    notes = []
    if kept is None and state in ("accepted", "kept"):
        notes.append("what the agent has accepted is not written down: this is what the files say")
    if is_on_trial:
        notes.append("the files are on trial: another configuration may be in force yet")
    if state == "kept":
        notes.append("the files are not in force: this is the configuration accepted before")
    if status["redirection"]["state"] == "absent" and redirection.is_managed:
        notes.append("the rules are not in: nothing is captured now")
    return _Known(loaded, redirection, facts, tuple(notes))


def _read_accepted(directory: str) -> bytes:
    """What the agent has written down; empty if it has not. Raises NotPermitted, KernelBusy."""
    try:
        return statefiles.StateFiles(directory).read(reload.ACCEPTED, reload.MAX_ACCEPTED)
    except FileNotFoundError:
        return b""
    except OSError as error:
        text = f"what is in force cannot be read from {directory}/{reload.ACCEPTED}"
        kind = NotPermitted if isinstance(error, PermissionError) else KernelBusy
        raise kind(f"{text}: {describe(error)}") from error


def _make_packet(
    question: Question, facts: model.HostFacts, own: list[model.Address]
) -> tuple[packets.Packet, list[str]]:
    """The packet that is meant, and what is missing for it here."""
    destination = ip_address(question.destination)
    protocol = _PROTOCOLS[question.protocol]
    flags = packets.SYN if protocol == names.TCP else 0
    packet = packets.Packet(
        str(destination), question.port, question.source, protocol=protocol, flags=flags
    )
    if question.source:
        source = ip_address(question.source)
        if packets.is_local(source, own):
            raise WrongUsage(f"{source} is an address of this host: --from is for other hosts'")
        packet = packet._replace(source=str(source))
        route = None if question.interface else rtnetlink.find_route(source)
        if not question.interface and route is None:
            raise WrongUsage(f"there is no route to {source}: name the --interface it comes in by")
        interface = question.interface or (route.interface if route else "")
        return packet._replace(iif=interface, is_bridged=interface in facts.filtered_bridges), []
    uid, gid = _find_sender(question, facts)
    route = rtnetlink.find_route(destination, uid=uid)
    notes = [] if route is not None else [f"this host has no route to {destination}"]
    interface = question.interface or (route.interface if route is not None else "")
    text = str(route.source) if route is not None and route.source is not None else ""
    unspecified = "0.0.0.0" if destination.version == 4 else "::"  # noqa: S104 # no listener
    packet = packet._replace(source=text or unspecified, uid=uid, gid=gid, oif=interface)
    return packet._replace(groups=_find_groups(question.unit)), notes


def _find_sender(question: Question, facts: model.HostFacts) -> tuple[int, int]:
    """Uid and gid of the socket; an ordinary user's where nobody is named."""
    uid = _ORDINARY_ID - (facts.proxy_uid == _ORDINARY_ID)
    gid = _ORDINARY_ID - (facts.proxy_gid == _ORDINARY_ID)
    if question.user:
        uids = {name: number for name, number, _ in facts.users} | {_PROXY: facts.proxy_uid}
        uid = _find(question.user, uids, "user", "/etc/passwd")
        of_users = {number: group for _, number, group in facts.users}
        gid = (of_users | {facts.proxy_uid: facts.proxy_gid}).get(uid, gid)
    if question.group:
        gids = dict(facts.groups) | {_PROXY: facts.proxy_gid}
        gid = _find(question.group, gids, "group", "/etc/group")
    return uid, gid


def _find_groups(unit: str) -> tuple[int, ...]:
    """The control group of a unit and those above it; none where no unit is named."""
    if not unit:
        return ()
    try:
        (name,) = units.parse_units(unit)
    except ValueError as error:
        raise WrongUsage(f"--from-unit: {error}") from None
    found = controlgroups.find(model.Units(exclude=(name,)))
    numbers = controlgroups.numbers_on_the_way(found[0].path) if found else ()
    if not numbers:
        raise WrongUsage(f"{name} has no control group now, so nothing is sent from there")
    return numbers


def _find(name: str, numbers: Mapping[str, int], what: str, file: str) -> int:
    if name in numbers:
        return numbers[name]
    if name.isascii() and name.isdecimal() and int(name) < 0xFFFFFFFF:
        return int(name)
    raise WrongUsage(f"there is no {what} {name} in {file}: write the number")


def _find_origins(known: _Known, found: explanation.Explanation) -> list[dict[str, Any]]:
    """Where the settings behind the decision are set; the first one's default where none is."""
    values = {
        value.key: value for value in build.build_config(known.loaded.layers, known.facts).values
    }
    behind = [values[key] for key in found.keys]
    is_set = [value for value in behind if value.file and value.status == "in effect"]
    return [
        {"key": value.key, "file": value.file, "line": value.line}
        for value in is_set or behind[:1]
    ]
