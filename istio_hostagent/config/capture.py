"""What of the traffic is captured: the part of a configuration that becomes rules.

Not here: names of users and groups (`accounts`), what other parts say (`build`).
"""

import re

from . import accounts, directkeys, model, registrykeys, settings
from . import reader as reading

_DNS_PORT, _SSH_PORT = 53, 22
_DNS_KEYS = (settings.DNS_CAPTURE.key, settings.REDIRECT_DNS.key)
# Releases with one port for both ways (ISTIO_IN_REDIRECT came with 1.0).
_ONE_PORT = (model.Generation.V0_7, model.Generation.V0_8)
# Of servers, and of the members of its networks, local and wide (docs/agent/config, "ports").
_CONSUL_PORTS = (8300, 8301, 8302)
_RESOLVED = "systemd-resolve"
_MOVED_PORT = re.compile(r"(?:statusPort|proxyAdminPort)[\"']?\s*:\s*[\"']?([0-9]{1,5})\b")


def build_redirection(
    reader: reading.Reader, facts: model.HostFacts, *, has_istiod: bool
) -> model.Redirection:
    """Read what is captured; names of users and groups become numbers of this host.

    `has_istiod`: whether an Envoy without pilot-agent has a control plane.
    """
    exclude = {
        *reader.read(settings.LOCAL_EXCLUDE_PORTS).ranges,
        *reader.read(settings.INBOUND_EXCLUDE_PORTS).ranges,
    }
    generation = reader.read(settings.RULES)
    outbound = reader.read(settings.SERVICE_CIDR)
    outbound_port = reader.read(settings.ENVOY_PORT)
    inbound_port = reader.read(settings.INBOUND_CAPTURE_PORT)
    if generation in _ONE_PORT:
        _check_generation(reader)
        inbound_port = outbound_port
    if generation is model.Generation.V0_7:
        outbound = outbound or model.CidrSet(is_all=True)
        exclude.add((_SSH_PORT, _SSH_PORT))
    made = model.Redirection(
        is_managed=not reader.read(settings.CUSTOM_RULES),
        outbound=outbound,
        outbound_exclude=reader.read(settings.SERVICE_EXCLUDE_CIDR),
        outbound_ports=reader.read(settings.OUTBOUND_PORTS),
        outbound_ports_exclude=_build_ports_exclude(reader),
        inbound=reader.read(settings.INBOUND_PORTS),
        inbound_exclude=model.PortSet(ranges=tuple(sorted(exclude))),
        outbound_capture_port=outbound_port,
        inbound_capture_port=inbound_port,
        tunnel_port=reader.read(settings.INBOUND_TUNNEL_PORT),
        proxy_ports=_proxy_ports(reader),
        private_ports=_private_ports(reader),
        keeps_closed=reader.read(settings.CLOSED_PORTS) and not _is_strict(reader),
        opens_firewall=reader.read(settings.FIREWALL),
        owners=accounts.build_owners(reader, facts),
        dns=_build_dns(reader, facts, has_istiod=has_istiod),
        excluded_interfaces=reader.read(settings.EXCLUDE_INTERFACES),
        guest_interfaces=reader.read(settings.GUEST_INTERFACES),
        loopback_v4=reader.read(settings.LOOPBACK_CIDR),
        drops_invalid=reader.read(settings.INVALID_DROP),
        transparent=_build_transparent(reader),
        generation=generation,
        back_end=reader.read(settings.BACK_END),
    )
    if reader.read(directkeys.REDIRECT):
        return model.Redirection(is_managed=False, is_none=True, back_end=model.BackEnd.NONE)
    origin = reader.find(settings.INTERCEPTION_MODE.key)
    if origin is not None and (why := lost_by_bridges(made, facts)):
        reader.warn(origin, f"{settings.INTERCEPTION_MODE.key}: {why}")
    return made


def lost_by_bridges(redirection: model.Redirection, facts: model.HostFacts) -> str:
    """Say by which bridges TPROXY cannot have what comes in, and why; empty if by none."""
    if not redirection.is_transparent:
        return ""
    other = (*redirection.excluded_interfaces, *redirection.guest_interfaces)
    found = [
        name
        for name in facts.filtered_bridges
        if name not in other
        and not any(each.endswith("*") and name.startswith(each[:-1]) for each in other)
    ]
    if not found:
        return ""
    return (
        f"connections to captured ports that come in by a bridge ({', '.join(found)}) are refused:"
        " br_netfilter takes them from TPROXY (set sysctl net.bridge.bridge-nf-call-iptables and"
        " -ip6tables to 0, and nf_call_iptables and nf_call_ip6tables of the bridge, or"
        f" {settings.INTERCEPTION_MODE.key}=REDIRECT)"
    )


def _build_ports_exclude(reader: reading.Reader) -> model.PortSet:
    """The listed ports, and those of Consul's agents among themselves where services are captured.

    Otherwise they would lose each other by that, since every agent is where services are.
    """
    listed = reader.read(settings.OUTBOUND_PORTS_EXCLUDE)
    if not reader.read(registrykeys.CONSUL_CAPTURE) or listed.is_all:
        return listed
    named = reader.read(settings.OUTBOUND_PORTS).named
    added = {(port, port) for port in _CONSUL_PORTS if port not in named}
    return model.PortSet(ranges=tuple(sorted({*listed.ranges, *added})))


def _check_generation(reader: reading.Reader) -> None:
    """One port for both ways is for a proxy that the control plane tells everything."""
    origin = reader.find(settings.RULES.key)
    if origin is not None and reader.read(settings.PROXY) is model.ProxyKind.ENVOY:
        text = f"{origin.value.strip()} needs pilot-agent: the Envoy of {settings.PROXY.key}=envoy"
        reader.refuse(settings.RULES.key, origin, f"{text} listens on a port for each way")


def _build_transparent(reader: reading.Reader) -> model.Transparent | None:
    """What TPROXY takes; the control plane must be told the same mode, or nothing works."""
    is_transparent = reader.read(settings.INTERCEPTION_MODE)
    said = "TPROXY" if is_transparent else "REDIRECT"
    row = settings.INTERCEPTION_MODE
    is_none = reader.read(directkeys.REDIRECT)
    if is_none:
        said, row = "NONE", directkeys.REDIRECT
    found = model.Transparent(
        reader.read(settings.TPROXY_MARK), reader.read(settings.TPROXY_TABLE)
    )
    # Told alone it means that the rules were forgotten; the other way round it has its default.
    told = reader.find(settings.META_INTERCEPTION_MODE.key)
    if told is not None and reader.read(settings.META_INTERCEPTION_MODE) != said:
        origin = reader.find(row.key)
        where = f" ({origin.file}:{origin.line})" if origin is not None else " by default"
        means = "none, which is NONE there" if is_none else said
        message = f"{row.key} is {means}{where}: both must be the same"
        reader.refuse(settings.META_INTERCEPTION_MODE.key, told, message)
    return found if is_transparent else None


def _build_dns(reader: reading.Reader, facts: model.HostFacts, *, has_istiod: bool) -> model.Dns:
    is_wanted = reader.read(settings.DNS_CAPTURE)
    is_every_server = reader.read(settings.CAPTURE_ALL_DNS)
    port = reader.read(settings.DNS_ADDRESS)
    uids = accounts.known_uids(reader.read(settings.RESOLVER_USERS), facts)
    key = next((k for k in _DNS_KEYS if reader.find(k) is not None), "")
    origin = reader.find(key)
    if not is_wanted or origin is None:
        return model.Dns()
    excluded = reader.read(settings.OUTBOUND_PORTS_EXCLUDE).ranges
    why = ""
    if reader.read(settings.PROXY) is model.ProxyKind.ENVOY and not has_istiod:
        why = f"Envoy without a control plane answers none, and {settings.PROXY.key} is envoy"
    elif any(first <= _DNS_PORT <= last for first, last in excluded):
        why = f"{settings.OUTBOUND_PORTS_EXCLUDE.key} has port {_DNS_PORT}"
    if why:
        reader.warn(origin, f"{key}: queries for names are not captured: {why}")
        return model.Dns()
    if not is_every_server and not facts.name_servers:
        # Until there is one: a network may not be up yet.
        reader.warn(origin, f"{key}: no query is captured, since /etc/resolv.conf names no server")
    dns = model.Dns(True, is_every_server, port, uids)
    if why := past_the_rules(dns, facts):
        reader.warn(origin, f"{key}: {why}")
    return dns


def past_the_rules(dns: model.Dns, facts: model.HostFacts) -> str:
    """Say why programs of this host are not told names of the mesh although queries are captured.

    Empty where they are. A program that asks systemd-resolved by its socket sends no packet; what
    that asks in turn is captured only if its user is no resolver to be left alone, and it is not
    the one whom pilot-agent asks.
    """
    if not dns.is_captured or not facts.asks_resolved:
        return ""
    is_left_alone = not {*accounts.known_uids([_RESOLVED], facts)}.isdisjoint(dns.resolver_uids)
    if not is_left_alone and not any(each.is_loopback for each in facts.name_servers):
        return ""
    return (
        "names of the mesh are not resolved: programs ask systemd-resolved by a socket, since"
        " /etc/nsswitch.conf has `resolve` before `dns` (apt remove libnss-resolve, or take"
        " `resolve` out)"
    )


def _is_strict(reader: reading.Reader) -> bool:
    """Whether it is certain that the proxy accepts nothing but mutual TLS."""
    is_told = reader.read(settings.CONTROL_PLANE) is model.ControlPlane.ISTIOD
    is_own = reader.read(settings.PROXY) is model.ProxyKind.ENVOY and not is_told
    return is_own and reader.read(settings.MTLS) is model.Mtls.STRICT


def describe_none(*, is_none: bool) -> tuple[str, ...]:
    """Say, for verbs about rules, that there are to be none; nothing where there may be some."""
    key = directkeys.REDIRECT.key
    said = "no rules: applications speak to the proxy by themselves"
    return (f"{said} ({key}=none)",) if is_none else ()


def check_emptied(reader: reading.Reader, redirection: model.Redirection) -> None:
    """Say what is not captured because a variable has no value."""
    if redirection.is_none:
        return
    ways = {
        settings.SERVICE_CIDR.key: "outbound" if not redirection.outbound_ports else "",
        settings.INBOUND_PORTS.key: "inbound",
    }
    for key, way in ways.items():
        sets = reader.history.get(key)
        if not sets or sets[-1].value.strip() or not sets[-1].uses or not way:
            continue
        names = " and ".join(f"${name}" for name in sets[-1].uses)
        verb = "is" if len(sets[-1].uses) == 1 else "are"
        reader.warn_of_nothing(sets[-1], f"{key} is empty because {names} {verb}", way)


def _proxy_ports(reader: reading.Reader) -> tuple[int, ...]:
    """Istio's fixed ports, and those that were moved."""
    own = (settings.STATUS_PORT, *settings.METRICS)
    moved = {reader.read(row) for row in own} - {0}
    return tuple(sorted(moved.union(model.Redirection().proxy_ports)))


def _private_ports(reader: reading.Reader) -> tuple[int, ...]:
    """Those of pilot-agent and its Envoy that are not opened; an Envoy of ours has none.

    PROXY_CONFIG is YAML of any form, and not parsed: whatever it may mean is taken for moved.
    """
    if reader.read(settings.PROXY) is model.ProxyKind.ENVOY:
        return ()
    origin = reader.find(settings.PROXY_CONFIG)
    moved = _MOVED_PORT.findall(origin.value) if origin else []
    ports = {*model.Redirection().private_ports, *map(int, moved)}
    opened = reader.read(settings.LOCAL_PORTS).ranges
    return tuple(
        port
        for port in sorted(ports)
        if 0 < port < 65536 and not any(first <= port <= last for first, last in opened)
    )
