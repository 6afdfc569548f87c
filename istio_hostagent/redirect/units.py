"""Rules about control groups, those of units: who is in one that is left alone.

The kernel compares numbers, and a group that is gone has none: so there is a rule only for a unit
that runs, and another one once it runs again. Where a rule cannot follow there is none: the guard
of early boot is loaded before any unit has started. Not here: which groups there are
(`config.model.HostFacts`).
"""

from collections.abc import Iterator

from ..config import model as config
from . import model
from .model import Field, Match, Operator, Rule, Verdict

EXCLUDED = "an excluded unit"
OTHER = "not an included unit"


def unit_rules(owners: config.Owners, facts: config.HostFacts, verdict: Verdict) -> Iterator[Rule]:
    """One for each group that is left alone; two names of one need no second one.

    Where units are included these are all others: one that nobody knows yet is captured.
    """
    named, is_by_others = set(owners.units.exclude), bool(owners.units.include)
    groups = [
        each
        for each in facts.control_groups
        if not each.is_captured and (each.unit in named if each.unit else is_by_others)
    ]
    for group in reversed({each.number: each for each in reversed(groups)}.values()):
        match = Match(Field.CONTROL_GROUP, Operator.EQ, group.number, path=group.path)
        yield Rule((match,), verdict, EXCLUDED if group.unit else OTHER)


def without_units(ruleset: model.Ruleset) -> model.Ruleset:
    """Leave these rules out."""
    return ruleset._replace(tables=tuple(map(_without, ruleset.tables)))


def _without(table: model.Table) -> model.Table:
    return table._replace(
        chains=tuple(
            chain._replace(rules=tuple(rule for rule in chain.rules if not _is_of_unit(rule)))
            for chain in table.chains
        )
    )


def _is_of_unit(rule: Rule) -> bool:
    return any(match.field is Field.CONTROL_GROUP for match in rule.matches)
