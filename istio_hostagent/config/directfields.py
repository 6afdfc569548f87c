"""Kinds of values, as `fields`: what the keys of the non-transparent mode hold."""

from collections.abc import Iterator

from . import direct, endpoints, fields, lists


def parse_upstreams(text: str) -> tuple[direct.Upstream, ...]:
    """`PORT=HOST:PORT` between commas; whether one is plain is not said here.

    >>> parse_upstreams("8001=mysql.onprem:3306, 8002=[fd00::1]:80")[1]
    Upstream(port=8002, host='fd00::1', destination_port=80, is_plain=False)
    """
    found = []
    for item in _items(text):
        local, separator, remote = item.partition("=")
        if not separator:
            raise ValueError(f"{fields.show(item)} is not PORT=HOST:PORT, as 8001=db.example:3306")
        host, port = endpoints.parse_host_port(remote)
        found.append(direct.Upstream(fields.parse_port(local), host, port))
    _check_once(each.port for each in found)
    return tuple(found)


def parse_inbound(text: str) -> tuple[direct.Inbound, ...]:
    """`PORT`, `PORT=PORT` or `PORT=ADDRESS:PORT` between commas.

    >>> parse_inbound("8080, 8443=8081")[1]
    Inbound(port=8443, address='127.0.0.1', application_port=8081)
    """
    found = []
    for item in _items(text):
        taken, separator, application = item.partition("=")
        port = fields.parse_port(taken)
        address, own = direct.LOOPBACK, port
        if separator and ":" in application:
            address, own = endpoints.parse_host_port(application)
            _check_address(address)
        elif separator:
            own = fields.parse_port(application)
        found.append(direct.Inbound(port, address, own))
    _check_once(each.port for each in found)
    return tuple(found)


def parse_hosts(text: str) -> tuple[str, ...]:
    """Names, addresses, `*.suffix` for every name below one, or `*` alone, between commas.

    Names come back in lower case, without a dot at the end.

    >>> parse_hosts("*.Debian.org, 10.0.0.9")
    ('*.debian.org', '10.0.0.9')
    """
    found = []
    for item in _items(text):
        if item == "*":
            found.append(item)
            continue
        prefix = "*." if item.startswith("*.") else ""
        host = endpoints.parse_host(item.removeprefix(prefix)).rstrip(".").lower()
        if prefix and endpoints.is_address(host):
            raise ValueError(f"{fields.show(item)} is a pattern of names with an address in it")
        found.append(prefix + host)
    if "*" in found and len(set(found)) > 1:
        raise ValueError("`*` means every host and stands alone")
    return tuple(dict.fromkeys(found))


def _items(text: str) -> Iterator[str]:
    filled = lists.fill_holes(text)
    return iter(filled.split(",")) if filled else iter(())


def _check_address(host: str) -> None:
    if not endpoints.is_address(host):
        raise ValueError(f"{fields.show(host)} is not an address: the application is on this host")


def _check_once(ports: Iterator[int]) -> None:
    seen: set[int] = set()
    for port in ports:
        if port in seen:
            raise ValueError(f"port {port} stands there twice")
        seen.add(port)
