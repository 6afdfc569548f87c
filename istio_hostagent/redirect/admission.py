"""Which repetitions of a firewall's rules may go in, beside what its other rules deny.

Not here: what a rule denies (`denials`), and how one that lets in is repeated (`openings`).
"""

from collections.abc import Iterable, Mapping, Sequence

from . import denials, openings, ranges

_MAX_REPETITIONS = 64  # in one chain


def keep_denials(
    chains: Mapping[str, Sequence[openings.Listed]],
    place: str,
    bases: Iterable[str],
    others: Sequence[denials.Barrier] = (),
) -> dict[str, list[openings.Listed]]:
    """Leave out what would let in connections that another rule may deny by port or address.

    Such a rule is in front, in the chain or on the way there, or in another chain that the kernel
    calls: one of `bases` of this table, or one whose rules are `others`. `place`: family and
    table.
    """
    rules = place_rules(chains, place)
    made = {}
    for name, listed in chains.items():
        on_the_way, reached = denials.on_the_way(rules, name)
        besides = [
            each for base in bases if base not in reached for each in denials.collect(rules, base)
        ]
        before = [*others, *besides, *on_the_way]
        kept = []
        for each, rule in zip(listed, rules[name], strict=True):
            kept.append(_keep_denied(each, before))
            before += denials.collect({**rules, "": [rule]}, "")
        if sum(len(each.repetitions) for each in kept) > _MAX_REPETITIONS:
            problem = f"chain {place} {name} would need more than {_MAX_REPETITIONS} rules"
            kept = [
                each._replace(repetitions=(), problem=problem) if each.repetitions else each
                for each in kept
            ]
        made[name] = kept
    return made


def place_rules(
    chains: Mapping[str, Sequence[openings.Listed]], place: str
) -> dict[str, list[denials.Rule]]:
    """Give what the rules of a table deny, each with its place in words."""
    return {
        name: [
            denials.Rule(f"rule handle {each.handle} of chain {place} {name}", each.denial)
            for each in listed
        ]
        for name, listed in chains.items()
    }


def _keep_denied(each: openings.Listed, before: Sequence[denials.Barrier]) -> openings.Listed:
    kept = []
    problem = each.problem
    for one in each.repetitions:
        found = next((b for b in before if ranges.intersect(one.ports, b.ports)), None)
        if found is None:
            kept.append(one)
        else:
            problem = f"{found.place} may deny it by port or address, and does not see it there"
    return each._replace(repetitions=tuple(kept), problem=problem)
