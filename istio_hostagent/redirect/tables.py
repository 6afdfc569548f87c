"""From chains and contents to a table: which sets it has, what they are called, in which order.

Not here: what the rules say (`policy`).
"""

import binascii

from . import exemptions, model
from .model import Match, Operator


def build_table(
    name: str,
    chains: list[model.Chain],
    sets: list[model.NamedSet],
    *,
    may_be_owned: bool,
    timeouts: tuple[model.Timeout, ...] = (),
) -> model.Table:
    """Keep only the sets that a rule uses, everything in order of name as in what is observed."""
    stamped = {each.name: each._replace(name=_stamp(each)) for each in sets}
    used: dict[int | str, model.NamedSet] = {}

    def resolve(match: Match) -> Match:
        if match.operator not in (Operator.IN, Operator.NOT_IN):
            return match
        used[match.value] = found = stamped[str(match.value)]
        return match._replace(value=found.name)

    resolved = [
        chain._replace(
            rules=tuple(
                rule._replace(matches=tuple(map(resolve, rule.matches))) for rule in chain.rules
            )
        )
        for chain in chains
    ]
    return model.Table(
        name,
        tuple(sorted(used.values(), key=lambda each: each.name)),
        tuple(sorted(resolved, key=lambda chain: chain.name)),
        may_be_owned,
        timeouts,
    )


def _stamp(named_set: model.NamedSet) -> str:
    """Name a set after its content too: what has another content is another set.

    So a new set can be filled completely beside the old one, before any rule looks at it.
    """
    checksum = binascii.crc32(named_set.ranges.data)
    return f"{named_set.name}{model.STAMP_SEPARATOR}{checksum:08x}"


def name_sets(sets: exemptions.Sets) -> list[model.NamedSet]:
    """Every set that a rule may use, under the name by which rules do."""
    named = [
        model.make_set(name, model.SetKind.PORT, content)
        for name, content in (
            ("outbound_ports_exempt", sets.exempt_ports),
            ("outbound_ports_named", sets.named_ports),
            ("outbound_ports", sets.ranged_ports),
            ("inbound_ports_exempt", sets.inbound_exempt),
            ("inbound_ports", sets.inbound),
            ("own_ports", sets.own_ports),
            ("private_ports", sets.private_ports),
        )
    ]
    for version, kind, values, family in (
        ("v4", model.SetKind.IPV4, model.SetKind.IPV4_VALUES, sets.v4),
        ("v6", model.SetKind.IPV6, model.SetKind.IPV6_VALUES, sets.v6),
    ):
        named += [
            model.make_set(f"outbound_{version}_{length}", values, content)
            for length, content in family.hashed
        ]
        named += [
            model.make_set(f"outbound_{version}", kind, family.intervals),
            model.make_set(f"outbound_exclude_{version}", kind, family.exclude),
            model.make_set(f"outbound_never_{version}", kind, family.never),
            model.make_set(f"outbound_loopback_{version}", kind, family.named_loopback),
            model.make_set(f"name_servers_{version}", kind, family.name_servers),
        ]
    return named
