"""Who this host is, and where and how it gets a certificate that says so.

Not here: what is asked and what is believed (`identity`).
"""

from . import endpoints, identitykeys, layers, model, setting, settings
from . import reader as reading

_CLASSIC_PORT = 8060
_CLASSIC_NAMES = ("istio-citadel", "istio-ca")
_NAMED = {
    "trust_domain": (identitykeys.TRUST_DOMAIN,),
    "namespace": (identitykeys.NAMESPACE, identitykeys.POD_NAMESPACE),
    "service_account": (identitykeys.SERVICE_ACCOUNT,),
}
_SOCKETS = (identitykeys.SOCKET_FILE, identitykeys.ENDPOINT_SOCKET)


def build_identity(reader: reading.Reader, facts: model.HostFacts) -> model.IdentitySettings:
    """Read everything about the certificate and those who issue it."""
    ca_host, ca_port = _read_address(reader)
    _check_effect(reader)
    protocols = _choose_protocols(reader, ca_host, ca_port)
    mounted_dir, output_dir = _read_directories(reader, facts)
    secret_source, is_workload_api = _read_socket(reader)
    return model.IdentitySettings(
        ca_host=ca_host,
        ca_port=ca_port,
        server_names=tuple(choose_server_name(reader, ca_host, each) for each in protocols),
        trust_domain=reader.read(identitykeys.TRUST_DOMAIN),
        namespace=reader.read(identitykeys.NAMESPACE),
        service_account=reader.read(identitykeys.SERVICE_ACCOUNT),
        cluster_id=reader.read(identitykeys.CLUSTER_ID),
        token_file=reader.read(identitykeys.TOKEN_FILE),
        root_file=reader.read(identitykeys.CA_ROOT_CA),
        output_dir=output_dir,
        ttl_s=reader.read(identitykeys.SECRET_TTL),
        grace_ratio=reader.read(identitykeys.GRACE_RATIO),
        grace_spread=reader.read(identitykeys.GRACE_JITTER),
        headers=_read_headers(reader),
        protocols=protocols,
        named_parts=tuple(
            name for name, rows in _NAMED.items() if any(reader.find(row.key) for row in rows)
        ),
        token_command=reader.read(identitykeys.TOKEN_COMMAND),
        metadata=_choose_metadata(reader),
        metadata_host=reader.read(identitykeys.METADATA_HOST),
        provisioned_dir=reader.read(identitykeys.PROV_CERT),
        mounted_dir=mounted_dir,
        secret_source=secret_source,
        is_workload_api=is_workload_api,
        key_kind=_choose_key_kind(reader, protocols),
        is_pkcs8=reader.read(identitykeys.PKCS8_KEY),
    )


def _choose_protocols(
    reader: reading.Reader, host: str, port: int
) -> tuple[model.CaProtocol, ...]:
    """The one that is set, else both, that first which the address suggests."""
    chosen = reader.read(identitykeys.CA_PROTOCOL)
    if chosen is not None:
        return (chosen,)
    label = host.partition(".")[0]
    source = _find_own_address(reader)
    is_classic_key = source is not None and source[0] == identitykeys.CITADEL_ADDRESS.key
    is_classic = is_classic_key or port == _CLASSIC_PORT or label in _CLASSIC_NAMES
    both = (model.CaProtocol.ISTIOD, model.CaProtocol.CITADEL)
    return both[::-1] if is_classic else both


def _read_directories(reader: reading.Reader, facts: model.HostFacts) -> tuple[str, str]:
    """Where somebody else renews the certificate, if so, and where readers find it.

    What somebody else writes is never made ours: where both are one directory, as by default, its
    content is shown in one of the agent's own.
    """
    output_dir = reader.read(identitykeys.OUTPUT_CERTS)
    is_hosts_own = facts.state_dir == model.STATE_DIRECTORY and not facts.instance
    if not is_hosts_own and reader.find_source(identitykeys.OUTPUT_CERTS.key) is None:
        # That of the host is another agent's: several may run here, each in its own namespace.
        output_dir = f"{facts.state_dir}/{model.CERTIFICATE}"
    if not reader.read(identitykeys.FILE_MOUNTED_CERTS):
        return "", output_dir
    mounted_dir = reader.read(identitykeys.PROV_CERT)
    if output_dir == mounted_dir:
        output_dir = f"{facts.state_dir}/{model.MOUNTED}"
    return mounted_dir, output_dir


def _read_socket(reader: reading.Reader) -> tuple[str, bool]:
    """The socket of another agent that gives the certificate out, and whether by SPIFFE's API."""
    path, is_workload_api = "", False
    for row in _SOCKETS:
        found, origin = reader.read(row), reader.find(row.key)
        if not found or origin is None:
            continue
        if found == model.OWN_SECRET_SOCKET:
            wrong = "that is this agent's own secret server: name that of another agent"
            reader.refuse_since(row.key, origin, wrong)
        elif other := _find_other_source(reader, row):
            wrong = f"the certificate comes from elsewhere, by {other}: take one of them out"
            reader.refuse_since(row.key, origin, wrong)
        else:
            path, is_workload_api = found, row is identitykeys.ENDPOINT_SOCKET
    return path, is_workload_api


def _find_other_source(reader: reading.Reader, row: setting.Setting[str]) -> str:
    """The key that says already that somebody else renews the certificate, and where it stands."""
    before = (identitykeys.FILE_MOUNTED_CERTS, *_SOCKETS[: _SOCKETS.index(row)])
    for each in before:
        origin = reader.find(each.key)
        if origin is not None and reader.read(each):
            return f"{each.key} ({origin.file}:{origin.line})"
    return ""


def choose_server_name(reader: reading.Reader, ca_host: str, protocol: model.CaProtocol) -> str:
    """The name that the certificate of a CA, or of istiod, must carry: seldom an address.

    What listens at an address shows by this name alone which kind of CA it is, so that each
    protocol has one: a port says little of it, and an answer comes only behind TLS.
    """
    if stated := reader.read(identitykeys.ISTIOD_SAN):
        return stated
    if "localhost" not in ca_host and not endpoints.is_address(ca_host):
        return ca_host
    if protocol is model.CaProtocol.CITADEL:
        return _CLASSIC_NAMES[0]
    return f"istiod.{reader.read(settings.SYSTEM_NAMESPACE)}.svc"


def _check_effect(reader: reading.Reader) -> None:
    """Say where a key takes the CA away that another key names, or that was asked before."""
    ca_key, classic = identitykeys.CA_ADDR.key, identitykeys.CITADEL_ADDRESS.key
    own = reader.find_source(ca_key)
    origin = reader.find(classic)
    if own is None and origin is not None:
        message = f"{classic} is not used, because {settings.PILOT_ADDRESS.key} is set"
        reader.warn(origin, f"{message}: to ask the CA that it names, write it as {ca_key}")
    for row in (identitykeys.FILE_MOUNTED_CERTS, *_SOCKETS):
        origin = reader.find(row.key)
        if origin is None or not reader.read(row):
            continue
        message = f"because of {row.key} no CA is asked"
        if own is not None:
            key, line = own
            reader.warn(line, f"{key} is not used: {message} ({origin.file}:{origin.line})")
        prov = identitykeys.PROV_CERT
        if row is identitykeys.FILE_MOUNTED_CERTS and reader.find(prov.key) is None:
            where = reader.read(prov)
            hint = f"write {prov.key}={where} if so, else take {row.key} out"
            reader.warn(origin, f"{message}, and somebody else has to renew {where}: {hint}")


def _read_address(reader: reading.Reader) -> tuple[str, int]:
    """Where the CA is; nobody gets plain text who has not asked for it by a key of the CA's."""
    host, port = reader.read(identitykeys.CA_ADDR)
    if port != model.PLAIN_PORT:
        return host, port
    text = f"port {port} speaks plain text"
    if own := _find_own_address(reader):
        key, line = own
        what = "the token goes to the CA in clear, and whoever answers is taken for it"
        reader.warn(line, f"{key}: {text}: {what}")
        return host, port
    for key in (settings.PILOT_ADDRESS.key, settings.PILOT_PORT.key):
        if origin := reader.find(key):
            ca_key = identitykeys.CA_ADDR.key
            hint = f"{text}; write {ca_key}=HOST:15012, or this address there too"
            message = f"{ca_key} is not set and would be {host}:{port}: {hint}"
            reader.refuse_since(key, origin, message)
            break
    # Made without what is refused now.
    return reader.read(identitykeys.CA_ADDR)


def _find_own_address(reader: reading.Reader) -> tuple[str, layers.Origin] | None:
    """The key of the CA's own from which its address comes; None where it is derived."""
    source = reader.find_source(identitykeys.CA_ADDR.key)
    return source if source and source[0] not in reader.refused else None


def _choose_metadata(reader: reading.Reader) -> model.Metadata | None:
    fetcher = reader.read(identitykeys.CREDENTIAL_FETCHER)
    return fetcher or reader.read(identitykeys.CITADEL_ENV)


def _choose_key_kind(
    reader: reading.Reader, protocols: tuple[model.CaProtocol, ...]
) -> model.KeyKind | None:
    """The kind of the key where somebody has set it; a Citadel signs RSA keys alone."""
    size, curve = reader.read(identitykeys.RSA_KEY_SIZE), reader.read(identitykeys.ECC_CURVE)
    if not reader.read(identitykeys.ECC_ALGORITHM):
        return size
    origin = reader.find(identitykeys.ECC_ALGORITHM.key)
    if protocols == (model.CaProtocol.CITADEL,) and origin is not None:
        key, by = identitykeys.ECC_ALGORITHM.key, identitykeys.CA_PROTOCOL.key
        reader.refuse_since(key, origin, f"a classic CA ({by}=citadel) signs RSA keys alone")
        return size
    return curve


def _read_headers(reader: reading.Reader) -> tuple[tuple[str, str], ...]:
    headers = []
    family = identitykeys.CA_HEADER
    for key in sorted(reader.history):
        name = key.removeprefix(family.key).lower()
        origin = reader.find(key)
        if not key.startswith(family.key) or origin is None or not name:
            continue
        try:
            headers.append((name, family.parse(origin.value)))
        except ValueError as error:
            reader.refuse(key, origin, str(error))
    return tuple(headers)
