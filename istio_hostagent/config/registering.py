"""What `register` is told of a service, from words of a command line or a key to values.

Not here: how a registry keeps it (`workers.registration`). Names and flags are those of
`istioctl register` (istio.io/istio istioctl/cmd/istioctl/register.go, 0.2 to 1.0). Every function
raises ValueError with the sentence that an operator reads.
"""

import ipaddress
import re
from collections.abc import Sequence

from . import fields, services

# A DNS label (RFC 1123, 2.1): what stands in front of .service.consul or of a namespace.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
# The name that a port has if none is given.
_USUAL_NAMES = {80: "http", 443: "https", 3306: "mysql", 8080: "http"}
EVERY = "*"
_MOST = 64


def parse_name(text: str) -> str:
    """The name of a service: one DNS label."""
    text = text.strip()
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{fields.show(text)} is not the name of a service: at most 63 letters, digits and '-'"
        )
    return text


def parse_address(text: str) -> str:
    """An address at which other hosts reach the service, in its usual form.

    >>> parse_address("FD00::0001")
    'fd00::1'
    """
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise ValueError(
            f"{fields.show(text)} is not an IP address; names are not looked up"
        ) from None
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"{address} is not an address at which other hosts reach this one")
    return str(address)


def parse_port(text: str) -> services.Port:
    """`NAME:NUMBER` or `NUMBER`.

    >>> parse_port("http:7000"), parse_port("3306")
    (Port(name='http', number=7000), Port(name='mysql', number=3306))
    """
    name, colon, number = text.strip().rpartition(":")
    port = fields.parse_port(number)
    if not colon:
        return services.Port(_USUAL_NAMES.get(port, str(port)), port)
    return services.Port(parse_name_of_port(name), port)


def parse_services(text: str) -> tuple[services.Registration, ...]:
    """`NAME=PORT,PORT` between blanks; their address is not said here.

    >>> parse_services("web=http:8080")[0].ports
    (Port(name='http', number=8080),)
    """
    found = []
    for word in fields.parse_words(text):
        name, equals, rest = word.partition("=")
        if not equals:
            raise ValueError(f"{fields.show(word)} is not NAME=PORT, as in web=http:8080")
        ports = parse_ports(rest.split(","))
        found.append(services.Registration(parse_name(name), "", ports))
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise ValueError("one name is there twice")
    if len(found) > _MOST:
        raise ValueError(f"more than {_MOST} services")
    return tuple(found)


def parse_captured(text: str) -> tuple[str, ...]:
    """Names of services between commas, or `*` alone."""
    words = tuple(filter(None, (word.strip() for word in text.split(","))))
    return words if words == (EVERY,) else tuple(dict.fromkeys(map(parse_name, words)))


def parse_name_of_port(text: str) -> str:
    """The name of a port: one DNS label."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{fields.show(text)} is not the name of a port, as in http:7000")
    return text


def parse_ports(words: Sequence[str]) -> tuple[services.Port, ...]:
    """One port or more, no number twice; one that is not named has a name of its own.

    >>> [port.name for port in parse_ports(["80", "8080"])]
    ['http', 'http-8080']
    """
    ports = tuple(map(parse_port, words))
    for index, (word, port) in enumerate(zip(words, ports, strict=True)):
        if ":" not in word and port.name in {each.name for each in ports[:index]}:
            named = services.Port(f"{port.name}-{port.number}", port.number)
            ports = (*ports[:index], named, *ports[index + 1 :])
    numbers = [port.number for port in ports]
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise ValueError(f"port {twice} is there twice")
    if len(ports) > _MOST:
        raise ValueError(f"more than {_MOST} ports")
    return ports


def parse_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`KEY=VALUE` between commas; a key alone has the empty value.

    >>> parse_pairs("version=v1,canary")
    (('version', 'v1'), ('canary', ''))
    """
    pairs: dict[str, str] = {}
    for part in fields.parse_text(text).split(","):
        key, _, value = part.strip().partition("=")
        if not key and not value and not part.strip():
            continue
        if not key or key in pairs:
            raise ValueError(f"{fields.show(part)} is not KEY=VALUE with a key of its own")
        pairs[key] = value
    if len(pairs) > _MOST:
        raise ValueError(f"more than {_MOST} of them")
    return tuple(pairs.items())


def parse_check(text: str) -> str:
    """How the registry sees whether the service is well: `tcp`, an http(s) URL, or not at all."""
    text = fields.parse_text(text)
    if text in ("", "tcp") or text.startswith(("http://", "https://")):
        return text
    raise ValueError(f"{fields.show(text)} is neither tcp nor a URL")
