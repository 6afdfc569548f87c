"""Users and groups by name and number: whose traffic is the proxy's, and whose is captured.

Not here: how names are written (`fields`), and which there are on this host (`model.HostFacts`).
"""

from collections.abc import Iterable

from . import model, settings
from . import reader as reading
from .setting import Setting

_PROXY = "istio-proxy"  # the user of the agent's own proxy, who is known in any case
_ROOT_TOO = (model.Generation.V1_0, model.Generation.V0_8, model.Generation.V0_7)


def build_owners(reader: reading.Reader, facts: model.HostFacts) -> model.Owners:
    """Read whose connections are captured; a name that this host does not know is a problem."""
    uids, gids = _build_proxy_owners(reader, facts)
    row = settings.EXCLUDE_USERS
    return model.Owners(
        proxy_uids=uids,
        proxy_gids=gids,
        exempts_root=reader.read(settings.EXEMPT_ROOT) or reader.read(settings.RULES) in _ROOT_TOO,
        groups=_build_groups(reader, facts),
        groups_exclude=find_gids(
            reader,
            settings.OWNER_GROUPS_EXCLUDE,
            reader.read(settings.OWNER_GROUPS_EXCLUDE),
            facts,
        ),
        users_exclude=find_uids(reader, row, reader.read(row), facts),
        units=_build_units(reader, facts),
    )


def known_uids(accounts: Iterable[int | str], facts: model.HostFacts) -> tuple[int, ...]:
    """The uids of those that this host knows."""
    of_names = {name: uid for name, uid, _ in facts.users}
    found = (each if isinstance(each, int) else of_names.get(each) for each in accounts)
    return tuple(sorted({uid for uid in found if uid is not None}))


def _build_proxy_owners(
    reader: reading.Reader, facts: model.HostFacts
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The uids and gids of the proxy that are named; none: it is the user istio-proxy.

    The group of a user is the one that passwd(5) says, unless PROXY_GID names others.
    """
    of_uids = {uid: gid for _, uid, gid in facts.users} | {facts.proxy_uid: facts.proxy_gid}
    uids: set[int] = set()
    if reader.find(settings.PROXY_UID.key) is not None:
        uids.update(find_uids(reader, settings.PROXY_UID, reader.read(settings.PROXY_UID), facts))
    for row in (settings.ENVOY_USER, settings.EXEC_USER):
        if reader.find(row.key) is not None:
            uids.update(find_uids(reader, row, (reader.read(row),), facts))
    gids = {of_uids.get(uid, uid) for uid in uids}
    if reader.find(settings.PROXY_GID.key) is not None:
        gids = set(find_gids(reader, settings.PROXY_GID, reader.read(settings.PROXY_GID), facts))
    return tuple(sorted(uids)), tuple(sorted(gids))


def _build_units(reader: reading.Reader, facts: model.HostFacts) -> model.Units:
    """Read whose control groups are left alone, wherever there are such groups."""
    exclude, include = settings.EXCLUDE_UNITS, settings.INCLUDE_UNITS
    for row in (exclude, include):
        origin = reader.find(row.key)
        if origin is not None and not facts.own_group:
            why = "no tree of control groups is mounted here (cgroup2)"
            reader.warn(origin, f"{row.key}: no unit is left alone, since {why}")
    origin = reader.find(include.key)
    if origin is not None and reader.read(settings.BACK_END) is model.BackEnd.LEGACY:
        why = "every unit that starts or stops would change them, which takes too long"
        reader.refuse(include.key, origin, f"not with rules in legacy tables: {why}")
    units = model.Units(reader.read(exclude), reader.read(include))
    both = next((each for each in units.include if each in units.exclude), "")
    if origin is not None and both:
        reader.refuse(include.key, origin, f"{both} is in {exclude.key}, too")
    return units


def _build_groups(reader: reading.Reader, facts: model.HostFacts) -> tuple[int, ...] | None:
    row = settings.OWNER_GROUPS
    sets = reader.history.get(row.key)
    if sets and not sets[-1].value.strip():
        reader.warn_of_nothing(sets[-1], f"{row.key} is empty", "outbound")
        return ()
    groups = reader.read(row)
    if groups is None:
        return None
    _say_what_is_ignored(reader)
    return find_gids(reader, row, groups, facts)


def _say_what_is_ignored(reader: reading.Reader) -> None:
    row = settings.OWNER_GROUPS_EXCLUDE
    origin = reader.find(row.key)
    if origin is not None:
        message = f"{row.key} counts only where {settings.OWNER_GROUPS.key} is *"
        reader.warn(origin, message)


def find_uids(
    reader: reading.Reader,
    row: Setting[object],
    accounts: Iterable[int | str],
    facts: model.HostFacts,
) -> tuple[int, ...]:
    """The uids of those that a key names; one that is not known is a problem at its line."""
    of_names = {name: uid for name, uid, _ in facts.users} | {_PROXY: facts.proxy_uid}
    return _find(reader, row, accounts, of_names, "user", "/etc/passwd")


def find_gids(
    reader: reading.Reader,
    row: Setting[object],
    accounts: Iterable[int | str],
    facts: model.HostFacts,
) -> tuple[int, ...]:
    """As `find_uids`, for groups."""
    of_names = dict(facts.groups) | {_PROXY: facts.proxy_gid}
    return _find(reader, row, accounts, of_names, "group", "/etc/group")


def _find(
    reader: reading.Reader,
    row: Setting[object],
    accounts: Iterable[int | str],
    of_names: dict[str, int],
    what: str,
    file: str,
) -> tuple[int, ...]:
    """The numbers; each name that is not known is a problem at the line of the key."""
    found = set()
    origin = reader.find(row.key)
    for each in accounts:
        number = each if isinstance(each, int) else of_names.get(each)
        if number is not None:
            found.add(number)
        elif origin is not None:
            message = f"there is no {what} {each} in {file}: write the number"
            reader.refuse(row.key, origin, message)
    return tuple(sorted(found))
