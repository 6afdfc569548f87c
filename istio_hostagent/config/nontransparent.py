"""What the proxy listens for where nothing is redirected (ISTIO_HOSTAGENT_REDIRECT=none).

An upstream that is named is in the mesh unless ISTIO_HOSTAGENT_PLAIN has its host. These keys are
for Envoy alone: pilot-agent is told by its control plane what to listen for (resource Sidecar).
"""

from collections.abc import Collection, Iterator, Sequence
from ipaddress import ip_address
from typing import Any

from . import direct, directkeys, layers, model, settings
from . import reader as reading
from .setting import Setting

_OWN = (directkeys.UPSTREAMS, directkeys.INBOUND, directkeys.HTTP_PORT)


def choose_kind(reader: reading.Reader) -> model.ProxyKind:
    """Which program is the proxy: what only Envoy can do leaves no choice."""
    kind = reader.read(settings.PROXY)
    if kind is model.ProxyKind.AUTO and reader.read(directkeys.REDIRECT) and _named(reader):
        return model.ProxyKind.ENVOY
    return kind


def build_direct(
    reader: reading.Reader, facts: model.HostFacts, users: dict[int, str]
) -> direct.Direct:
    """Read what the proxy listens for; nothing where connections are redirected.

    `users`: who has which of the proxy's own ports.
    """
    if not reader.read(directkeys.REDIRECT):
        _check_rules(reader, facts)
        return direct.Direct()
    if teller := _find_teller(reader):
        why = f"{teller}, and the control plane says what the proxy listens for"
        for key, line in _named(reader, (*_OWN, directkeys.PLAIN)):
            reader.refuse(key, line, f"has no effect: {why} (the resource Sidecar)")
        return direct.Direct()
    plain = reader.read(directkeys.PLAIN)
    upstreams = tuple(
        each._replace(is_plain=is_plain(each.host, plain))
        for each in reader.read(directkeys.UPSTREAMS)
    )
    http_port = reader.read(directkeys.HTTP_PORT)
    made = direct.Direct(upstreams, _build_inbound(reader), http_port, plain)
    _check_ports(reader, facts, made, users)
    _check_loops(reader, facts, made)
    origin = reader.find(directkeys.REDIRECT.key)
    if not made and origin is not None and choose_kind(reader) is model.ProxyKind.ENVOY:
        keys = ", ".join(row.key for row in _OWN)
        reader.warn(origin, f"nothing goes through the proxy: none of {keys} is set")
    return made


def _find_teller(reader: reading.Reader) -> str:
    """Which key has a control plane tell the proxy everything, or nothing."""
    if reader.read(settings.PROXY) is model.ProxyKind.PILOT_AGENT:
        return f"{settings.PROXY.key} is pilot-agent"
    if reader.read(settings.CONTROL_PLANE) is model.ControlPlane.ISTIOD:
        return f"{settings.CONTROL_PLANE.key} is istiod"
    return ""


def is_plain(host: str, plain: Collection[str]) -> bool:
    """Whether a host is one of those that are not in the mesh."""
    host = host.rstrip(".").lower()
    for each in plain:
        if each in ("*", host) or (each.startswith("*.") and host.endswith(each[1:])):
            return True
    return False


def _named(
    reader: reading.Reader, rows: Sequence[Setting[Any]] = _OWN
) -> list[tuple[str, layers.Origin]]:
    found = ((row.key, reader.find(row.key)) for row in rows)
    return [(key, origin) for key, origin in found if origin is not None]


def _check_rules(reader: reading.Reader, facts: model.HostFacts) -> None:
    key = directkeys.REDIRECT.key
    if facts.instance:
        text = f"instance {facts.instance} needs {key}=none: one agent alone, without a name,"
        reader.refuse_whole(f"{text} has the rules of a network namespace")
    for row in directkeys.ROWS:
        line = reader.find(row.key)
        if line is not None:
            reader.warn(line, f"{row.key} has no effect without {key}=none")


def _build_inbound(reader: reading.Reader) -> tuple[direct.Inbound, ...]:
    """The ports that are named, else those whose inbound connections would be captured."""
    found = reader.read(directkeys.INBOUND)
    row = settings.INBOUND_PORTS
    origin = reader.find(row.key)
    if found or origin is None:
        return found
    listed = reader.read(row)
    if listed.is_all or any(first != last for first, last in listed.ranges):
        text = f"names no single port, which {directkeys.REDIRECT.key}=none needs"
        reader.refuse(row.key, origin, f"{text}: write the ports, or {directkeys.INBOUND.key}")
        return ()
    excluded = (
        *reader.read(settings.LOCAL_EXCLUDE_PORTS).ranges,
        *reader.read(settings.INBOUND_EXCLUDE_PORTS).ranges,
    )
    return tuple(
        direct.Inbound(port, direct.LOOPBACK, port)
        for port in sorted(listed.named)
        if not any(first <= port <= last for first, last in excluded)
    )


def _check_ports(
    reader: reading.Reader,
    facts: model.HostFacts,
    made: direct.Direct,
    users: dict[int, str],
) -> None:
    """Refuse ports on which two listeners would meet, or on which sshd listens."""
    taken = dict(users)
    inbound = _inbound_key(reader)
    both = (
        *((directkeys.UPSTREAMS.key, each.port) for each in made.upstreams),
        *((inbound, each.port) for each in made.inbound),
    )
    for key, port in both:
        origin = reader.find(key)
        if origin is None:
            continue
        if port in facts.ssh_ports:
            reader.refuse(key, origin, f"{port} is the port on which sshd listens")
        elif port in taken:
            other = reader.find(taken[port])
            where = f" ({other.file}:{other.line})" if other else ""
            reader.refuse(key, origin, f"{port} is the port of {taken[port]}{where} already")
        taken[port] = key


def _check_loops(reader: reading.Reader, facts: model.HostFacts, made: direct.Direct) -> None:
    """Refuse what would lead from the proxy to itself, again and again."""
    on_loopback = {each.port for each in made.upstreams} | {made.http_port} - {0}
    everywhere = {each.port for each in made.inbound if not each.is_beside}
    for key, host, port in _destinations(reader, made):
        is_loop = _is_loopback(host) and port in on_loopback | everywhere
        is_loop |= host in map(str, facts.addresses) and port in everywhere
        origin = reader.find(key)
        if is_loop and origin is not None:
            reader.refuse(key, origin, f"{host}:{port} is a port of the proxy itself")


def _destinations(reader: reading.Reader, made: direct.Direct) -> Iterator[tuple[str, str, int]]:
    for each in made.upstreams:
        yield directkeys.UPSTREAMS.key, each.host, each.destination_port
    for taken in made.inbound:
        yield _inbound_key(reader), taken.address, taken.application_port


def _inbound_key(reader: reading.Reader) -> str:
    row = directkeys.INBOUND if reader.find(directkeys.INBOUND.key) else settings.INBOUND_PORTS
    return row.key


def _is_loopback(host: str) -> bool:
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
