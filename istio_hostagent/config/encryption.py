"""What of the captured traffic is encrypted, towards whom, and whether plain text is accepted.

In one line, since nobody can tell from "in the mesh". Not here: what makes it so (`supervise`).
"""

from . import directkeys, model, settings

_MOST = 3  # networks are named, of more the number
_CONTROL_PLANE = "as the control plane says"


def describe(config: model.Config, kind: model.ProxyKind) -> str:
    """Say it for a proxy; AUTO is one that has not been looked for."""
    if config.redirection.is_none:
        return _describe_direct(config, kind)
    if not config.redirection.is_managed:
        return f"what is captured is up to rules of your own ({settings.CUSTOM_RULES.key})"
    if kind is model.ProxyKind.PILOT_AGENT or config.proxy.istiod is not None:
        return f"{_CONTROL_PLANE} (PeerAuthentication, DestinationRule)"
    text = f"{_outbound(config)}; {_inbound(config)}"
    if kind is model.ProxyKind.AUTO:
        return f"with pilot-agent {_CONTROL_PLANE}; with Envoy alone {text}"
    return text


def _describe_direct(config: model.Config, kind: model.ProxyKind) -> str:
    """Say it where applications speak to the proxy by themselves."""
    if kind is model.ProxyKind.PILOT_AGENT:
        return f"{_CONTROL_PLANE} (PeerAuthentication, DestinationRule)"
    made = config.proxy.direct
    text = []
    ports = {
        is_plain: ", ".join(str(each.port) for each in made.upstreams if each.is_plain is is_plain)
        for is_plain in (False, True)
    }
    if ports[False]:
        text.append(f"what comes at {ports[False]} is encrypted (mutual TLS)")
    if ports[True]:
        text.append(f"what comes at {ports[True]} is not encrypted ({directkeys.PLAIN.key})")
    if made.http_port:
        hosts = ", ".join(made.plain[:_MOST]) + (", ..." if len(made.plain) > _MOST else "")
        others = f", but not to {hosts}" if hosts else ""
        text.append(f"what comes by HTTP at {made.http_port} is encrypted{others}")
    if made.inbound:
        taken = ", ".join(str(each.port) for each in made.inbound)
        is_strict = config.proxy.mtls is model.Mtls.STRICT
        said = "refused" if is_strict else "accepted"
        hint = "" if is_strict else f" ({settings.MTLS.key}=permissive)"
        text.append(f"plain text is {said} on ports {taken}{hint}")
    return "; ".join(text) or "nothing goes through the proxy"


def _outbound(config: model.Config) -> str:
    redirection, mesh = config.redirection, config.proxy.mesh
    if not (redirection.outbound or redirection.outbound_ports):
        return "nothing outbound is captured"
    key = settings.MESH_CIDR.key
    if not mesh:
        return f"nothing outbound is encrypted ({key} is empty)"
    if mesh.is_all:
        towards = "everybody"
    else:
        networks = mesh.networks
        towards = ", ".join(map(str, networks[:_MOST]))
        towards += f" and {len(networks) - _MOST} more networks" if len(networks) > _MOST else ""
    return f"captured traffic to {towards} is encrypted (mutual TLS), all other is not"


def _inbound(config: model.Config) -> str:
    if not config.redirection.inbound:
        return "nothing inbound is captured, plain text is accepted"
    key = settings.MTLS.key
    if config.proxy.mtls is model.Mtls.STRICT:
        return "plain text is refused on captured ports"
    return f"plain text is accepted on captured ports ({key}=permissive)"
