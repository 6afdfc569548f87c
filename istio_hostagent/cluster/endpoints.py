"""Endpoints of Kubernetes as a table: which address has which ports, each once.

The subsets of the object say the same in many ways, as products of addresses and ports; written
back, addresses with the same ports are together. Source: kubernetes/api core/v1 types.go.
"""

import json
from collections.abc import Iterable
from typing import Any

from ..config import services

Object = dict[str, Any]
# By address and whether it is ready: what is said of it, and its ports by number and protocol.
Table = dict[tuple[str, bool], tuple[Object, dict[tuple[int, str], Object]]]


def read(item: Object) -> Table:
    """The table of an object."""
    table: Table = {}
    for subset in item.get("subsets") or ():
        ports = {_key(port): dict(port) for port in subset.get("ports") or ()}
        for name, is_ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(name) or ():
                said, known = table.get((address["ip"], is_ready), (address, {}))
                table[address["ip"], is_ready] = said, {**ports, **known}
    return table


def add(table: Table, address: str, ports: Iterable[services.Port]) -> bool:
    """Have these ports at an address, ready; whether something differs afterwards.

    A number that has a name there keeps it, whatever it is called now.
    """
    said, known = table.get((address, True), ({"ip": address}, {}))
    wanted = {_key(made): made for made in map(_port, ports)}
    # One number has one name in the whole object.
    named = {key: port for _, others in table.values() for key, port in others.items()}
    missing = {key: named.get(key, port) for key, port in wanted.items() if key not in known}
    table[address, True] = said, {**known, **missing}
    return _take(table, (address, False), set(wanted)) or bool(missing)


def remove(table: Table, address: str, numbers: frozenset[int]) -> bool:
    """Take an address away, or these ports of it; whether anything was there to be taken."""
    is_there = False
    for place in ((address, True), (address, False)):
        if place not in table:
            continue
        _, known = table[place]
        if not numbers:
            del table[place]
            is_there = True
        else:
            is_there |= _take(table, place, {key for key in known if key[0] in numbers})
    return is_there


def _take(table: Table, place: tuple[str, bool], keys: set[tuple[int, str]]) -> bool:
    said, known = table.get(place, ({}, {}))
    left = {key: port for key, port in known.items() if key not in keys}
    if len(left) == len(known):
        return False
    if left:
        table[place] = said, left
    else:
        del table[place]
    return True


def write(item: Object, table: Table) -> Object:
    """The object with the subsets that a table makes."""
    together: dict[str, tuple[list[Object], dict[str, list[Object]]]] = {}
    for (_, is_ready), (said, known) in sorted(table.items(), key=lambda each: each[0]):
        ports = [known[key] for key in sorted(known)]
        _, found = together.setdefault(json.dumps(ports, sort_keys=True), (ports, {}))
        found.setdefault("addresses" if is_ready else "notReadyAddresses", []).append(said)
    subsets = [
        {**found, **({"ports": ports} if ports else {})} for ports, found in together.values()
    ]
    return {**item, "subsets": subsets}


def _key(port: Object) -> tuple[int, str]:
    return int(port["port"]), str(port.get("protocol", "TCP"))


def _port(port: services.Port) -> Object:
    protocol = "UDP" if port.protocol == "udp" else "TCP"
    return {"name": port.name.lower(), "port": port.number, "protocol": protocol}
