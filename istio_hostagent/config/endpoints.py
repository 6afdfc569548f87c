"""Kinds of values, as `fields`: addresses and names of hosts, alone or with a port."""

import re
from ipaddress import IPv6Address, ip_address

from . import fields, model

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_PILOT_PORTS = (8080, 15003, 15005, 15011)
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


def parse_address(text: str) -> model.Address | None:
    """One address of either family; the empty text is none."""
    text = text.strip()
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{fields.show(text)} is not one IP address") from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise ValueError(
            f"{fields.show(text)} is a link-local address, which other hosts cannot use"
        )
    return address


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
    raise ValueError(f"{fields.show(text)} is neither a host name nor an address")


def is_address(host: str) -> bool:
    """Whether a host is an IP address, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_optional_host(text: str) -> str:
    """As `parse_host`, or empty."""
    return parse_host(text) if text.strip() else ""


def parse_host_port(text: str) -> tuple[str, int]:
    """`host:port`, `address:port` or `[IPv6 address]:port`.

    >>> parse_host_port("[fd00::1]:15012")
    ('fd00::1', 15012)
    """
    text = text.strip()
    if "://" in text:
        raise ValueError(f"{fields.show(text)} must be host:port, without a scheme")
    host, separator, port = text.rpartition(":")
    if not separator:
        raise ValueError(f"{fields.show(text)} has no port: write host:port")
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        if ":" not in inner:
            raise ValueError(
                f"{fields.show(text)} has brackets around something that is no IPv6 address"
            )
        return parse_host(inner), fields.parse_port(port)
    if ":" in host:
        raise ValueError(f"{fields.show(text)} must be host:port, or [address]:port for IPv6")
    return parse_host(host), fields.parse_port(port)


def is_classic_pilot(text: str) -> bool:
    """Whether an address is that of a Pilot of Istio 1.0 and before, which is no CA.

    By its ports (plain 8080; MUTUAL_TLS 15003 until 0.6, 15005 in 0.7, 15011 since), or its name.

    >>> is_classic_pilot("10.0.0.5:15011"), is_classic_pilot("istiod.istio-system.svc:15012")
    (True, False)
    """
    try:
        host, port = parse_host_port(text)
    except ValueError:
        return False
    return port in _PILOT_PORTS or host.partition(".")[0] == "istio-pilot"


def parse_listen_port(text: str) -> int:
    """The port of an address to listen on, as Go writes it: `host:port` or `:port`."""
    host, separator, port = text.strip().rpartition(":")
    if not separator or "://" in host:
        raise ValueError(f"{fields.show(text)} is not host:port")
    return fields.parse_port(port)


def parse_ca_address(text: str) -> tuple[str, int]:
    """As `parse_host_port`, but not istiod's plain-text port: the CA is asked over TLS only."""
    host, port = parse_host_port(text)
    if port == 15010:
        raise ValueError(
            "port 15010 speaks plain text: the CA is asked over TLS only, on port 15012"
        )
    return host, port
