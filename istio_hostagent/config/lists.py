"""Kinds of values, as `fields`: what has several items between commas, and its items.

Blanks around an item are ignored.
"""

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address

from . import fields, model

_PART = re.compile(r"[^,]+")
_OCTETS = {str(number): number for number in range(256)}
_HOLE = re.compile(r"[^,\s]\s*,(?:\s*,)+\s*[^,\s]")
# As in useradd(8); a `$` at the end is of machines that Samba knows.
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")
_MAX_ID = 0xFFFFFFFE  # 2^32 - 1 means none
MAX_GROUPS = 64  # as in istio-iptables
# The name of an interface (dev_valid_name() of the kernel), or its beginning and + or *.
_INTERFACE = re.compile(r"[^\s/:*+]{1,15}|[^\s/:*+]{1,14}[*+]")


class EmptyItem(ValueError):
    """A list has a hole, which earlier versions left out without a word."""


class EmptyNetwork(EmptyItem):
    """A list of networks has a hole: files that are made from variables have them."""


def fill_holes(text: str) -> str:
    """The list without its empty items."""
    return ",".join(_items(text))


def _check_holes(text: str, error: type[EmptyItem] = EmptyItem) -> None:
    """Find `80,,81`, which may have lost something; a comma too many at an end has not."""
    if ",," in text.replace(" ", "").replace("\t", "") and _HOLE.search(text):
        spelled = fill_holes(text)
        hint = f": write {spelled}" if len(spelled) <= 100 else ""
        raise error(f"between two commas nothing is written{hint}")


def _items(text: str) -> Iterator[str]:
    return (item for part in _PART.finditer(text) if (item := part[0].strip()))


def parse_port_list(text: str) -> model.PortSet:
    """Ports and ranges (`a:b` or `a-b`) between commas, in ascending order.

    A comma too many at an end is dropped, the empty text is no port at all.

    >>> parse_port_list("8000-8010, 80,443:443,").ranges
    ((80, 80), (443, 443), (8000, 8010))
    """
    _check_holes(text)
    ranges = set()
    for item in _items(text):
        if item == "*":
            raise ValueError("`*` is not possible here: write the ports")
        first, separator, last = item.replace("-", ":", 1).partition(":")
        low = fields.parse_port(first)
        high = fields.parse_port(last) if separator else low
        if low > high:
            raise ValueError(f"the range {fields.show(item)} ends before it begins")
        ranges.add((low, high))
    return model.PortSet(ranges=tuple(sorted(ranges)))


def parse_port_set(text: str) -> model.PortSet:
    """As `parse_port_list`, or `*` alone for every port."""
    if text.strip() == "*":
        return model.PortSet(is_all=True)
    if "*" in _items(text):
        raise ValueError("`*` means every port and stands alone")
    return parse_port_list(text)


def parse_cidr_list(text: str) -> model.CidrSet:
    """Networks and addresses of both families between commas.

    Host bits are cleared, repetitions and a comma too many at an end dropped. An address without
    a prefix length is a /32 or /128. The empty text is no destination at all.

    >>> [str(network) for network in parse_cidr_list("10.1.2.3/8, fd00::1").networks]
    ['10.0.0.0/8', 'fd00::1/128']
    """
    if "*" in text and "*" in _items(text):
        raise ValueError("`*` is not possible here: write the networks")
    _check_holes(text, EmptyNetwork)
    return model.CidrSet.of_ends(map(_read_network, _items(text)))


def parse_cidr_set(text: str) -> model.CidrSet:
    """As `parse_cidr_list`, or `*` alone for every destination."""
    if text.strip() == "*":
        return model.CidrSet(is_all=True)
    if "*" in text and "*" in _items(text):
        raise ValueError("`*` means every destination and stands alone")
    return parse_cidr_list(text)


def _read_network(item: str) -> tuple[int, int, int]:
    """The version, the first and the last address of one item, its host bits ignored."""
    address, separator, prefix = item.partition("/")
    try:
        version, number = (6, int(IPv6Address(address))) if ":" in address else _read_ipv4(address)
    except AddressValueError:
        raise ValueError(
            f"{fields.show(item)} is not a network such as 10.0.0.0/8 or fd00::/8"
        ) from None
    if "%" in address:
        raise ValueError(f"{fields.show(item)} has a zone, which has no place in a network")
    bits = 32 if version == 4 else 128
    length = bits
    if separator:
        length = int(prefix) if prefix.isascii() and prefix.isdigit() and len(prefix) < 4 else 999
        if length > bits:
            raise ValueError(
                f"the prefix length of {fields.show(item)} is not a number up to {bits}"
            )
    host_mask = (1 << (bits - length)) - 1
    return version, number & ~host_mask, number | host_mask


def _read_ipv4(address: str) -> tuple[int, int]:
    """The library says what is wrong; what is right takes it three times as long."""
    try:
        first, second, third, fourth = map(_OCTETS.__getitem__, address.split("."))
    except (KeyError, ValueError):
        return 4, int(IPv4Address(address))
    return 4, first << 24 | second << 16 | third << 8 | fourth


def parse_loopback_network(text: str) -> IPv4Network:
    """A part of 127.0.0.0/8.

    >>> str(parse_loopback_network("127.0.0.1/8"))
    '127.0.0.0/8'
    """
    text = text.strip()
    if "/" in text and ":" not in text:
        _, first, last = _read_network(text)
        network = model.to_network(4, first, last)
        if isinstance(network, IPv4Network) and network.is_loopback:
            return network
    raise ValueError(f"{fields.show(text)} is not 127.0.0.0/8 or a part of it")


def parse_interfaces(text: str) -> tuple[str, ...]:
    """Names of interfaces between commas; `eth+` and `eth*` stand for all that begin so.

    >>> parse_interfaces("docker0, veth+")
    ('docker0', 'veth*')
    """
    names = dict.fromkeys(_items(text))
    for name in names:
        if not _INTERFACE.fullmatch(name) or name in (".", ".."):
            raise ValueError(f"{fields.show(name)} is not the name of a network interface")
    return tuple(name.replace("+", "*") for name in names)


def parse_accounts(text: str) -> tuple[int | str, ...]:
    """Names and numbers of users or groups between commas.

    >>> parse_accounts("app, 2000")
    ('app', 2000)
    """
    found: dict[int | str, None] = {}
    for item in _items(text):
        if item.isascii() and item.isdigit():
            found[fields.parse_number(item, lowest=0, highest=_MAX_ID, what="a number")] = None
        elif _ACCOUNT.fullmatch(item):
            found[item] = None
        else:
            raise ValueError(f"{fields.show(item)} is neither a name nor a number")
    return tuple(found)


def parse_group_set(text: str) -> tuple[int | str, ...] | None:
    """As `parse_accounts`, at most 64, or `*` alone for every group, which is None."""
    if text.strip() == "*":
        return None
    if "*" in _items(text):
        raise ValueError("`*` means every group and stands alone")
    return parse_groups(text)


def parse_groups(text: str) -> tuple[int | str, ...]:
    """As `parse_accounts`, at most 64."""
    groups = parse_accounts(text)
    if len(groups) > MAX_GROUPS:
        raise ValueError(f"{len(groups)} groups are more than {MAX_GROUPS}")
    return groups


def parse_user(text: str) -> int | str:
    """One name or number of a user."""
    accounts = parse_accounts(text)
    if len(accounts) != 1:
        raise ValueError(f"{fields.show(text)} is not one user")
    return accounts[0]
