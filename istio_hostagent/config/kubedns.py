"""The file `kubedns` of the classic guides: what dnsmasq answers, and whom it asks for the rest.

Its lines are dnsmasq's own. Only those that setupMeshEx.sh wrote, from 0.2 to 1.0, and a port
behind the address of a server, for node ports, are taken, since the file becomes a part of the
configuration of a program that root runs.
"""

import ipaddress
from typing import NamedTuple

from ..errors import ConfigInvalid, Problem
from . import fields, model

_LONGEST_NAME = 253
_FORMS = "address=/NAME/ADDRESS or server=/DOMAIN/ADDRESS[#PORT]"


class Entry(NamedTuple):
    """`name` and all below it: of this address; or, if `is_asked`, known to the server there."""

    name: str
    address: model.Address
    is_asked: bool


def parse(text: str, path: str) -> tuple[Entry, ...]:
    """Give the entries in order; raises ConfigInvalid with all that is wrong, by line."""
    found: list[Entry] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            found.append(_parse_line(line))
        except ValueError as error:
            problems.append(Problem(path, number, str(error)))
    if not found and not problems:
        problems.append(Problem(path, 0, f"no line says {_FORMS}"))
    if problems:
        raise ConfigInvalid(tuple(problems))
    return tuple(found)


def _parse_line(line: str) -> Entry:
    kind, _, rest = line.partition("=")
    parts = rest.split("/")
    if kind not in ("address", "server") or len(parts) != 3 or parts[0]:
        raise ValueError(f"not of the form {_FORMS}: {line[:80]!r}")
    _, name, address = parts
    if not _is_name(name):
        raise ValueError(f"not a name: {name[:80]!r}")
    if not address:
        raise ValueError(
            f"no address for {name}: its load balancer had none when this was written"
        )
    if kind == "server":
        address, mark, port = address.partition("#")
        if mark:
            fields.parse_port(port)
    try:
        return Entry(name.lower(), ipaddress.ip_address(address), kind == "server")
    except ValueError as error:
        raise ValueError(f"not an IP address: {address[:80]!r}") from error


def _is_name(text: str) -> bool:
    labels = text.split(".")
    return len(text) <= _LONGEST_NAME and all(
        0 < len(label) < 64
        and label.isascii()
        and label.replace("-", "").replace("_", "").isalnum()
        and label[0] != "-" != label[-1]
        for label in labels
    )
