"""The answer of the worker that reads the catalogue of services."""

import ipaddress
from typing import Any, NamedTuple

from . import checks, formats

MOST = 10_000
_MAX_INDEX = 1 << 63
_ADDRESS = r"[0-9a-f.:]{2,45}"


class Catalogue(NamedTuple):
    """Where the services are now; `error`: it is not known.

    `version`: of the catalogue (X-Consul-Index), to wait for another one.
    """

    version: int = 0
    addresses: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...] = ()
    error: checks.Error | None = None


def _read(value: Any, _request: Any) -> Catalogue:
    answer = checks.read_object(value, "answer")
    if (error := checks.read_error(answer)) is not None:
        return Catalogue(error=error)
    found = answer.get("addresses")
    if not isinstance(found, list) or len(found) > MOST:
        raise checks.Wrong(f"addresses is not a list of at most {MOST}")
    version = checks.read_number(answer.get("version"), "version", 0, _MAX_INDEX)
    return Catalogue(version, tuple(map(_read_address, found)))


def _read_address(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    text = checks.read_matching({"address": value}, "addresses", "address", _ADDRESS)
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise checks.Wrong("addresses: not an address") from error


FORMAT = formats.Format(1 << 20, MOST + 16, _read)
