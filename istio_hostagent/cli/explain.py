"""Say what the rules make of one packet: which rule decides, and which setting is behind it.

The packet is the first of a connection, or a datagram. Without --from it is one that this host
sends, by the interface of its route, for an ordinary user if none is named. With --from it comes
from another host, by the interface of the route back there if none is named. The answer comes
from the model of the configuration in force; no packet is sent without --live. With --live one
is, as a probe that is dropped before it leaves, and the kernel tells which rules it met.

Exit status: 0 whatever becomes of the packet, 64 if there is no such packet, and with --live 1 if
the kernel did something else than the model.
"""

import ipaddress
import itertools
import json
import os
from typing import Any

from ..agent.oneshot.question import Question
from ..errors import WrongUsage
from . import answer
from .options import Option, Values

OPTIONS = (
    Option("protocol", "tcp or udp", "", "PROTOCOL", is_word=True),
    Option("destination", "10.0.0.5:443 or [fd00::1]:80", "", "ADDRESS:PORT", is_word=True),
    Option("from-user", "who sends it: a name or a uid", "", "USER"),
    Option("from-group", "the sender's group, if not the user's own", "", "GROUP"),
    Option("from-unit", "the sender's unit of systemd, or path of a control group", "", "UNIT"),
    Option("from", "the other host from which it comes", "", "ADDRESS"),
    Option("interface", "by which it goes out or comes in", "", "NAME"),
    Option("live", "send such a packet, and compare what the kernel does with it"),
    Option("json", "for programs"),
)


def execute(values: Values) -> int:
    """Print what becomes of the packet."""
    question = read_question(values)
    asked = answer.ask("status")
    status = asked["status"] if asked is not None else None
    found = answer.alone("explain", os.environ, question=question, status=status)
    print(json.dumps(found, indent=1) if values["json"] else render(found, question))
    return 0 if found["live"] is None or found["live"]["agrees"] else 1


def read_question(values: Values) -> Question:
    """Make sense of the command line; raises WrongUsage."""
    protocol = values["protocol"].lower()
    if protocol not in ("tcp", "udp"):
        raise WrongUsage(f"{values['protocol']!r} is neither tcp nor udp")
    address, port = _read_destination(values["destination"])
    source = values["from"]
    if source:
        if values["from-user"] or values["from-group"] or values["from-unit"]:
            raise WrongUsage("what comes --from another host has no user, group or unit here")
        other = _read_address(source)
        if other.version != address.version:
            raise WrongUsage(f"{source} and {address} are not of one IP version")
        source = str(other)
    if values["from-unit"] and values["live"]:
        raise WrongUsage("--live sends from this session, and so never --from-unit")
    return Question(
        protocol,
        str(address),
        port,
        values["from-user"],
        values["from-group"],
        source,
        values["interface"],
        values["live"],
        values["from-unit"],
    )


def _read_destination(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise WrongUsage(f"{text!r}: write an IPv6 address in brackets, as in [fd00::1]:80")
    if not colon or not host:
        raise WrongUsage(f"{text!r} has no port: write ADDRESS:PORT")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise WrongUsage(f"{port!r} is no port")
    return _read_address(host.removeprefix("[").removesuffix("]")), int(port)


def _read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        message = f"{text!r} is no address: write the one that the sender's resolver gives"
        raise WrongUsage(message) from None


def render(found: dict[str, Any], question: Question) -> str:
    """The answer for people."""
    packet = found["packet"]
    lines = [
        f"{_describe(packet, question)}: {found['text']}",
        f"  decided by: {found['decision']}",
    ]
    if found["settings"]:
        lines.append(f"  because of: {', '.join(map(_origin, found['settings']))}")
    lines.append(f"  rules met: {_describe_path(found['path'])}")
    lines.append(f"  without our rules: {found['without_rules']['text']}")
    lines += [f"  note: {note}" for note in found["notes"]]
    if found["live"] is not None:
        lines += _describe_live(found["live"])
    return "\n".join(lines)


def _describe_live(live: dict[str, Any]) -> list[str]:
    sent = f"  sent from {live['source']} by {live['interface']}"
    going = "it went no further"
    if live["address"]:
        going = f"it was going to {live['address']} port {live['port']}"
    lines = [f"{sent}: {going}", f"  kernel met: {_describe_path(live['path'])}"]
    if live["others"]:
        lines.append(f"  and rules of others: {', '.join(live['others'])}")
    lines += [f"  differs: {each}" for each in live["differences"]]
    return [*lines, *(["  kernel and model agree"] if live["agrees"] else [])]


def _describe_path(path: list[dict[str, Any]]) -> str:
    """The rules by table, in the order in which they were met."""
    tables = (
        f"{table}: " + ", ".join(f"{step['chain']} rule {step['rule']}" for step in steps)
        for table, steps in itertools.groupby(path, lambda step: step["table"])
    )
    return "; ".join(tables) or "none"


def _describe(packet: dict[str, Any], question: Question) -> str:
    address = packet["destination"]
    where = f"[{address}]" if ":" in address else address
    text = f"{packet['protocol']} {where}:{packet['port']}"
    by = f" by {packet['interface']}" if packet["interface"] else ""
    if packet["direction"] == "in":
        return f"{text} from {packet['source']}{by}"
    user = f"user {question.user}" if question.user else "an ordinary user"
    group = f", group {question.group}" if question.group else ""
    unit = f" in {question.unit}" if question.unit else ""
    return f"{text} from {user}{group}{unit} (uid {packet['uid']}, gid {packet['gid']}){by}"


def _origin(setting: dict[str, Any]) -> str:
    if not setting["file"]:
        return f"{setting['key']} (default)"
    return f"{setting['key']} ({setting['file']}:{setting['line']})"
