"""Kinds of values: one `parse_*` each, from the text behind `KEY=` to a typed value.

Not here: which key has which kind (`settings`). Each function takes any text, ignores blanks
around the value and around the items of a list, and raises `ValueError` with one sentence that an
operator can act on. The empty text is a value only where a function says so. Text of the operator
is shown in messages shortened and escaped; functions for secrets show none.
"""

import re
from collections.abc import Callable, Iterator
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    ip_address,
)
from typing import TypeVar

from . import model

_Choice = TypeVar("_Choice")

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MICROSECONDS = {
    "ns": 1e-3, "us": 1, "µs": 1, "μs": 1, "ms": 1e3, "s": 1e6, "m": 6e7, "h": 3.6e9,
}  # fmt: skip
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_KUBERNETES_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?")
_PART = re.compile(r"[^,]+")
_HOLE = re.compile(r"[^,\s]\s*,(?:\s*,)+\s*[^,\s]")
_PRINTABLE = re.compile(r"[ -~]*")
# As in useradd(8); a `$` at the end is of machines that Samba knows.
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")
_MAX_ID = 0xFFFFFFFE  # 2^32 - 1 means none
MAX_GROUPS = 64  # as in istio-iptables
# The name of an interface (dev_valid_name() of the kernel), or its beginning and + or *.
_INTERFACE = re.compile(r"[^\s/:*+]{1,15}|[^\s/:*+]{1,14}[*+]")
# What Envoy's --log-level takes (envoy docs, operations/cli).
_LOG_LEVELS = ("trace", "debug", "info", "warning", "warn", "error", "critical", "off")
# Of pilot-agent (istio.io/istio/pkg/log, pilot/cmd/pilot-agent): with a value, and without one.
_LOGGING_VALUES = (
    "--log_output_level", "--log_stacktrace_level", "--log_caller", "--vklog",
    "--proxyLogLevel", "--proxyComponentLogLevel",
)  # fmt: skip
_LOGGING_SWITCHES = ("--log_as_json",)
MAX_TTL_S = 90 * 86400  # istiod's default limit (MAX_WORKLOAD_CERT_TTL); it refuses more


def show(text: str) -> str:
    """Text as it may stand in a message: quoted, escaped, at most 40 characters of it."""
    return repr(text if len(text) <= 40 else text[:40] + "…")


def parse_text(text: str) -> str:
    """Any text on one line, empty included.

    >>> parse_text(" Kubernetes ")
    'Kubernetes'
    """
    text = text.strip()
    if not text.isprintable():
        raise ValueError("a control character or line end is inside the value")
    return text


def parse_bool(text: str) -> bool:
    """One of true, yes, 1, false, no, 0 in any case.

    Istio takes anything else for false without a word; we do not.

    >>> parse_bool("True"), parse_bool("0")
    (True, False)
    """
    truth = _TRUTH.get(text.strip().lower())
    if truth is None:
        raise ValueError(f"{show(text)} is neither true nor false")
    return truth


def parse_number(text: str, *, lowest: int, highest: int, what: str) -> int:
    """A decimal number between two bounds, both included; `what` names it in the message."""
    text = text.strip()
    # int() takes more than this: signs, underscores and the digits of every script.
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if lowest <= number <= highest:
        return number
    raise ValueError(f"{show(text)} is not {what} between {lowest} and {highest}")


def parse_port(text: str) -> int:
    """One TCP port, 1 to 65535."""
    return parse_number(text, lowest=1, highest=65535, what="a port")


def parse_port_or_none(text: str) -> int:
    """One TCP port, or 0 for none."""
    return parse_number(text, lowest=0, highest=65535, what="a port")


def parse_count(text: str) -> int:
    """A small count, 1 to 1024."""
    return parse_number(text, lowest=1, highest=1024, what="a number")


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
        low = parse_port(first)
        high = parse_port(last) if separator else low
        if low > high:
            raise ValueError(f"the range {show(item)} ends before it begins")
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
        raise ValueError(f"{show(item)} is not a network such as 10.0.0.0/8 or fd00::/8") from None
    if "%" in address:
        raise ValueError(f"{show(item)} has a zone, which has no place in a network")
    bits = 32 if version == 4 else 128
    length = bits
    if separator:
        length = int(prefix) if prefix.isascii() and prefix.isdigit() and len(prefix) < 4 else 999
        if length > bits:
            raise ValueError(f"the prefix length of {show(item)} is not a number up to {bits}")
    host_mask = (1 << (bits - length)) - 1
    return version, number & ~host_mask, number | host_mask


def _read_ipv4(address: str) -> tuple[int, int]:
    return 4, int(IPv4Address(address))


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
    raise ValueError(f"{show(text)} is not 127.0.0.0/8 or a part of it")


def parse_interfaces(text: str) -> tuple[str, ...]:
    """Names of interfaces between commas; `eth+` and `eth*` stand for all that begin so.

    >>> parse_interfaces("docker0, veth+")
    ('docker0', 'veth*')
    """
    names = dict.fromkeys(_items(text))
    for name in names:
        if not _INTERFACE.fullmatch(name) or name in (".", ".."):
            raise ValueError(f"{show(name)} is not the name of a network interface")
    return tuple(name.replace("+", "*") for name in names)


def parse_accounts(text: str) -> tuple[int | str, ...]:
    """Names and numbers of users or groups between commas.

    >>> parse_accounts("app, 2000")
    ('app', 2000)
    """
    found: dict[int | str, None] = {}
    for item in _items(text):
        if item.isascii() and item.isdigit():
            found[parse_number(item, lowest=0, highest=_MAX_ID, what="a number")] = None
        elif _ACCOUNT.fullmatch(item):
            found[item] = None
        else:
            raise ValueError(f"{show(item)} is neither a name nor a number")
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
        raise ValueError(f"{show(text)} is not one user")
    return accounts[0]


def parse_address(text: str) -> model.Address | None:
    """One address of either family; the empty text is none."""
    text = text.strip()
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{show(text)} is not one IP address") from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise ValueError(f"{show(text)} is a link-local address, which other hosts cannot use")
    return address


def parse_duration(text: str) -> float:
    """A length of time above zero in seconds, as Go writes it: `24h`, `1h30m`, `90s`, `1.5h`.

    The notation is that of ParseDuration in Go's package time.

    >>> parse_duration("1h30m")
    5400.0
    """
    text = text.strip()
    position = 0
    total = 0.0
    if len(text) <= 64:
        while part := _DURATION_PART.match(text, position):
            total += float(part[1]) * _MICROSECONDS[part[2]]
            position = part.end()
    if not text or position != len(text):
        raise ValueError(f"{show(text)} is not a duration such as 24h or 1h30m")
    if not round(total):
        raise ValueError(f"{show(text)} is no time at all")
    return round(total) / 1e6


def parse_ttl(text: str) -> float:
    """The life of a certificate in seconds: a duration from one second to 90 days."""
    ttl = parse_duration(text)
    if not 1 <= ttl <= MAX_TTL_S:
        raise ValueError(
            f"{show(text)} is not between 1s and 2160h (90 days), which is what istiod grants"
        )
    return ttl


def parse_ratio(text: str) -> float:
    """A fraction between 0 and 1, both excluded."""
    text = text.strip()
    try:
        ratio = float(text) if len(text) <= 32 else 0.0
    except ValueError:
        ratio = 0.0
    if 0.0 < ratio < 1.0:
        return ratio
    raise ValueError(f"{show(text)} is not a fraction between 0 and 1, such as 0.5")


def parse_host(text: str) -> str:
    """A DNS name or an IP address without a port; the address comes back in its shortest form."""
    text = text.strip()
    try:
        return str(ip_address(text))
    except ValueError:
        if (
            len(text) <= 253
            and _HOST.fullmatch(text)
            and not text.rstrip(".").replace(".", "").isdigit()
        ):
            return text
    raise ValueError(f"{show(text)} is neither a host name nor an address")


def parse_host_port(text: str) -> tuple[str, int]:
    """`host:port`, `address:port` or `[IPv6 address]:port`.

    >>> parse_host_port("[fd00::1]:15012")
    ('fd00::1', 15012)
    """
    text = text.strip()
    if "://" in text:
        raise ValueError(f"{show(text)} must be host:port, without a scheme")
    host, separator, port = text.rpartition(":")
    if not separator:
        raise ValueError(f"{show(text)} has no port: write host:port")
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        if ":" not in inner:
            raise ValueError(f"{show(text)} has brackets around something that is no IPv6 address")
        return parse_host(inner), parse_port(port)
    if ":" in host:
        raise ValueError(f"{show(text)} must be host:port, or [address]:port for IPv6")
    return parse_host(host), parse_port(port)


def parse_listen_port(text: str) -> int:
    """The port of an address to listen on, as Go writes it: `host:port` or `:port`."""
    host, separator, port = text.strip().rpartition(":")
    if not separator or "://" in host:
        raise ValueError(f"{show(text)} is not host:port")
    return parse_port(port)


def parse_ca_address(text: str) -> tuple[str, int]:
    """As `parse_host_port`, but not istiod's plain-text port: the CA is asked over TLS only."""
    host, port = parse_host_port(text)
    if port == 15010:
        raise ValueError(
            "port 15010 speaks plain text: the CA is asked over TLS only, on port 15012"
        )
    return host, port


def parse_path(text: str) -> str:
    """A path; `./etc/certs` and `etc/certs` mean `/etc/certs`, since Istio's agent runs in `/`.

    >>> parse_path("./etc/certs/")
    '/etc/certs'
    """
    text = parse_text(text)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not text or ".." in parts:
        raise ValueError(f"{show(text)} is not a path without `..`")
    return "/" + "/".join(parts)


def parse_optional_path(text: str) -> str | None:
    """As `parse_path`; the empty text is none."""
    return parse_path(text) if text.strip() else None


def parse_root_file(text: str) -> str:
    """As `parse_path`; `SYSTEM` is the store of the operating system, where Debian keeps it."""
    if text.strip() == "SYSTEM":
        return model.SYSTEM_ROOTS
    return parse_path(text)


def parse_optional_root(text: str) -> str:
    """As `parse_path`; `SYSTEM` stays, which pilot-agent knows, and the empty text is none."""
    text = text.strip()
    return parse_path(text) if text and text != "SYSTEM" else text


def parse_kubernetes_name(text: str) -> str:
    """The name of a namespace or service account: lower-case letters, digits, `-` and `.`."""
    text = text.strip()
    if _KUBERNETES_NAME.fullmatch(text):
        return text
    raise ValueError(f"{show(text)} is not a name of lower-case letters, digits, '-' and '.'")


def parse_namespace(text: str) -> str:
    """The name of a namespace: one DNS label of lower-case letters, digits and `-`."""
    name = parse_kubernetes_name(text)
    if len(name) > 63 or "." in name:
        raise ValueError(
            f"{show(text)} is not a namespace: it has a dot or more than 63 characters"
        )
    return name


def parse_optional_host(text: str) -> str:
    """As `parse_host`, or empty."""
    return parse_host(text) if text.strip() else ""


def parse_trust_domain(text: str) -> str:
    """A trust domain of SPIFFE: at most 255 lower-case letters, digits, `.`, `-` and `_`."""
    text = text.strip()
    if _TRUST_DOMAIN.fullmatch(text):
        return text
    raise ValueError(f"{show(text)} is not a trust domain such as cluster.local")


def parse_interception_mode(text: str) -> bool:
    """REDIRECT or TPROXY in any case; whether it is TPROXY.

    Istio takes anything else for REDIRECT without a word, which hides client addresses.
    """
    mode = text.strip().upper()
    if mode not in ("REDIRECT", "TPROXY"):
        raise ValueError(f"{show(text)} is neither REDIRECT nor TPROXY")
    return mode == "TPROXY"


def parse_mark(text: str) -> int:
    """A mark of packets: 1 to 0xffffffff, in decimal or after 0x in hexadecimal digits.

    >>> parse_mark("0x539")
    1337
    """
    text = text.strip().lower()
    digits = text.removeprefix("0x")
    if text.startswith("0x") and len(digits) <= 8 and not set(digits) - set("0123456789abcdef"):
        text = str(int(digits or "0", 16))
    return parse_number(text, lowest=1, highest=0xFFFFFFFF, what="a mark")


def parse_routing_table(text: str) -> int:
    """The number of a routing table that is not the kernel's own (default, main, local)."""
    table = parse_number(text, lowest=1, highest=0xFFFFFFFF, what="a routing table")
    if table in (253, 254, 255):
        raise ValueError(f"{table} is a routing table of the kernel's own (default, main, local)")
    return table


def parse_log_level(text: str) -> str:
    """A log level of Envoy."""
    level = text.strip().lower()
    if level in _LOG_LEVELS:
        return level
    raise ValueError(f"{show(text)} is not one of {', '.join(_LOG_LEVELS)}")


def parse_words(text: str) -> tuple[str, ...]:
    """Words between blanks, as Istio's start script splits them; quotes have no meaning inside."""
    return tuple(parse_text(text).split())


def is_about_logging(words: tuple[str, ...]) -> bool:
    """Whether arguments of pilot-agent change nothing but how much is logged, and in which form.

    Not `--log_target`, `--log_rotate` and their like, which name files.
    """
    waits_for_value = False
    for word in words:
        name, separator, _value = word.partition("=")
        if waits_for_value and not word.startswith("-"):
            waits_for_value = False
        elif waits_for_value or name not in (*_LOGGING_VALUES, *_LOGGING_SWITCHES):
            return False
        else:
            waits_for_value = not separator and name in _LOGGING_VALUES
    return not waits_for_value


def parse_header(text: str) -> str:
    """The value of a gRPC header, which no message shows.

    Printable ASCII: `ASCII-Value` of the specification of gRPC over HTTP/2.
    """
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("a header value must be printable ASCII on one line")
    return text


def parse_header_text(text: str) -> str:
    """One line of printable ASCII that is sent as a header and is no secret, empty included."""
    text = text.strip()
    if not _PRINTABLE.fullmatch(text):
        raise ValueError(f"{show(text)} is not printable ASCII on one line")
    return text


def parser_of(choices: dict[str, _Choice]) -> Callable[[str], _Choice]:
    """Make a parser that takes one of the given words, in any case."""

    def parse(text: str) -> _Choice:
        try:
            return choices[text.strip().lower()]
        except KeyError:
            raise ValueError(f"{show(text)} is not one of {', '.join(choices)}") from None

    return parse
