"""Whether an Envoy without pilot-agent is told by istiod what to do, and where istiod is.

Not here: what it is told (`supervise.directed`). pilot-agent finds its control plane by itself,
from the same keys.
"""

from . import directkeys, endpoints, issuing, model, proxykeys, settings
from . import reader as reading

_PORT = 15012
# What says without a control plane which traffic is encrypted.
_OWN = (settings.MESH_CIDR, settings.MTLS)


def build_istiod(reader: reading.Reader, identity: model.IdentitySettings) -> model.Istiod | None:
    """Where istiod is; None where this host's own keys say what becomes of its traffic."""
    chosen = reader.read(settings.CONTROL_PLANE)
    if chosen is model.ControlPlane.NONE:
        return None
    # Where nothing is redirected an Envoy alone does what the keys of this host say.
    is_own = reader.read(directkeys.REDIRECT) or not _is_named(reader, identity)
    if chosen is model.ControlPlane.AUTO and is_own:
        return None
    for row in _OWN:
        if (origin := reader.find(row.key)) is not None:
            reader.warn(origin, f"{row.key} has no effect: istiod says what is encrypted")
    host, port = _find_address(reader, identity)
    name = issuing.choose_server_name(reader, host, model.CaProtocol.ISTIOD)
    return model.Istiod(host, port, name)


def _is_named(reader: reading.Reader, identity: model.IdentitySettings) -> bool:
    """Whether the files are those of a host with istiod, and say nothing of their own."""
    if any(reader.find(row.key) for row in _OWN):
        return False
    is_classic = identity.protocols[0] is model.CaProtocol.CITADEL
    if is_classic and not identity.mounted_dir:
        return False
    named = any(reader.find(key) for key in settings.OF_CONTROL_PLANE)
    return named or _find_in_proxy_config(reader) is not None


def _find_address(reader: reading.Reader, identity: model.IdentitySettings) -> tuple[str, int]:
    """As pilot-agent would find it; where no key names it, it is where the CA is.

    A revision of istiod is named to a host by CA_ADDR and by the file `mesh`, which is for
    pilot-agent.
    """
    if (found := _find_in_proxy_config(reader)) is not None:
        return found
    is_said = any(reader.find(row.key) for row in (settings.PILOT_ADDRESS, settings.PILOT_PORT))
    is_istiods = identity.ca_port == _PORT and not identity.mounted_dir
    if is_istiods and not is_said and identity.protocols[0] is model.CaProtocol.ISTIOD:
        return identity.ca_host, identity.ca_port
    host, port = reader.read(settings.PILOT_ADDRESS)
    if port == model.PLAIN_PORT and reader.read(settings.PROXY) is model.ProxyKind.ENVOY:
        for key in (settings.PILOT_ADDRESS.key, settings.PILOT_PORT.key):
            if (origin := reader.find(key)) is not None:
                message = f"{key}: port {port} speaks plain text, and Envoy alone asks with TLS"
                reader.warn(origin, f"{message}: write the port of istiod's TLS, usually {_PORT}")
                break
    return host, port


def _find_in_proxy_config(reader: reading.Reader) -> tuple[str, int] | None:
    origin = reader.find(settings.PROXY_CONFIG)
    text = proxykeys.find_discovery_address(origin.value) if origin is not None else ""
    try:
        return endpoints.parse_host_port(text) if text else None
    except ValueError:
        return None  # pilot-agent would not understand it either, and says so
