"""What the agent registers by itself, from the keys of the registry."""

from . import reader as reading
from . import registering, registrykeys, services


def build_registry(reader: reading.Reader) -> services.Registry:
    """Read the keys; a certificate without its key is a problem."""
    labels = reader.read(registrykeys.REGISTER_LABELS)
    access = services.Access(
        address=reader.read(registrykeys.CONSUL),
        token_file=reader.read(registrykeys.CONSUL_TOKEN_FILE) or "",
        roots=reader.read(registrykeys.CONSUL_CACERT) or "",
        certificate=reader.read(registrykeys.CONSUL_CLIENT_CERT) or "",
        key=reader.read(registrykeys.CONSUL_CLIENT_KEY) or "",
        server_name=reader.read(registrykeys.CONSUL_SERVER_NAME),
    )
    pair = (registrykeys.CONSUL_CLIENT_CERT, registrykeys.CONSUL_CLIENT_KEY)
    if bool(access.certificate) != bool(access.key):
        for row, other in (pair, pair[::-1]):
            origin = reader.find(row.key)
            if origin is not None and reader.read(row):
                reader.refuse_since(row.key, origin, f"it needs {other.key} as well")
    captured = reader.read(registrykeys.CONSUL_CAPTURE)
    return services.Registry(
        tuple(each._replace(labels=labels) for each in reader.read(registrykeys.REGISTER)),
        access,
        captures_all=captured == (registering.EVERY,),
        captured=() if captured == (registering.EVERY,) else captured,
    )
