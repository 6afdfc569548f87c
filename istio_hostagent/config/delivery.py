"""Who else gets the certificate after each renewal, with the numbers of users and groups.

Not here: who writes it (`workers.outputs`), and who is told (`agent.renewhook`).
"""

from . import accounts, identitykeys, model
from . import reader as reading

# What lies in a directory of certificates.
_NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem")


def build_delivery(
    reader: reading.Reader, facts: model.HostFacts, output_dir: str
) -> model.Delivery:
    """Read both keys; a name that this host does not know is a problem.

    `output_dir`: where the agent itself writes its certificate.
    """
    outputs = _without_circles(reader, output_dir)
    gids = {uid: gid for _, uid, gid in facts.users} | {facts.proxy_uid: facts.proxy_gid, 0: 0}
    found = []
    for each in outputs:
        uid = _number(accounts.find_uids(reader, identitykeys.OUTPUTS, (each.owner,), facts))
        group = gids.get(uid, uid) if each.group is None else each.group
        gid = _number(accounts.find_gids(reader, identitykeys.OUTPUTS, (group,), facts))
        found.append(each._replace(owner=uid, group=gid))
    return model.Delivery(tuple(found), reader.read(identitykeys.RENEW_HOOK))


def _without_circles(reader: reading.Reader, output_dir: str) -> tuple[model.Output, ...]:
    """Those that write where nothing is read from; the others are problems."""
    key = identitykeys.OUTPUTS.key
    taken = _find_taken(reader, output_dir)
    found = []
    for each in reader.read(identitykeys.OUTPUTS):
        other = taken.get(each.path, "")
        origin = reader.find(key)
        if other and origin is not None:
            place = reader.find(other)
            where = f" ({place.file}:{place.line})" if place else ""
            what = f"{each.kind.value}:{each.path} would write over what this agent reads there"
            reader.refuse_since(key, origin, f"{what}, by {other}{where}: name another place")
        else:
            found.append(each)
    return tuple(found)


def _find_taken(reader: reading.Reader, output_dir: str) -> dict[str, str]:
    """Each path that the agent itself reads, with the key that says so."""
    taken = {
        str(reader.read(row)): row.key
        for row in (identitykeys.TOKEN_FILE, identitykeys.CA_ROOT_CA)
    }
    for row in (identitykeys.OUTPUT_CERTS, identitykeys.PROV_CERT):
        key = (reader.find_source(row.key) or (row.key, None))[0]
        directory = output_dir if row is identitykeys.OUTPUT_CERTS else reader.read(row)
        taken |= {f"{directory}/{name}": key for name in _NAMES} | {directory: key}
    return taken


def _number(found: tuple[int, ...]) -> int:
    """The one that was asked for; of a name that is not known a problem was made."""
    return found[0] if found else 0
