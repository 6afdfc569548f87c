"""Rules about whose packet it is: the proxy's, of an excluded user, of a captured group.

Not here: where they stand among the others (`policy`, `names`).
"""

from collections.abc import Iterator, Sequence

from ..config import model as config
from . import units
from .model import Action, Field, Match, Operator, Rule, Verdict

ROOT = 0
RETURN = Verdict(Action.RETURN)


def proxy_matches(redirection: config.Redirection, facts: config.HostFacts) -> tuple[Match, ...]:
    """What tells the proxy: each of its users, then each of its groups."""
    owners = redirection.owners
    uids = dict.fromkeys((facts.proxy_uid, *owners.proxy_uids))
    gids = dict.fromkeys((facts.proxy_gid, *owners.proxy_gids))
    return (
        *(Match(Field.SKUID, Operator.EQ, uid) for uid in uids),
        *(Match(Field.SKGID, Operator.EQ, gid) for gid in gids),
    )


def exempt_rules(
    redirection: config.Redirection,
    facts: config.HostFacts,
    verdict: Verdict = RETURN,
    timeout: str = "",
) -> Iterator[Rule]:
    """What nobody captures: of the proxy, of root where so said, of excluded users and units."""
    for match in proxy_matches(redirection, facts):
        yield Rule((match,), verdict, "what the proxy sends is final", timeout)
    if redirection.owners.exempts_root:
        for field in (Field.SKUID, Field.SKGID):
            yield Rule((Match(field, Operator.EQ, ROOT),), verdict, "root is left alone")
    for uid in redirection.owners.users_exclude:
        yield Rule((Match(Field.SKUID, Operator.EQ, uid),), verdict, "an excluded user")
    yield from units.unit_rules(redirection.owners, facts, verdict)


def user_rules(redirection: config.Redirection, facts: config.HostFacts) -> Iterator[Rule]:
    """Let the users of the proxy do what nobody else may: its group is not enough."""
    for match in proxy_matches(redirection, facts):
        if match.field is Field.SKUID:
            yield Rule((match,), RETURN, "the proxy itself")


def group_rules(
    owners: config.Owners, captured: Verdict, exempt: Verdict = RETURN
) -> tuple[Rule, ...]:
    """Send captured groups to a chain, where they are listed; the end of this one is for others.

    Where all but some are captured, these leave this chain.
    """
    if owners.groups is None:
        return tuple(
            Rule((_of_group(gid),), exempt, "an excluded group") for gid in owners.groups_exclude
        )
    return tuple(Rule((_of_group(gid),), captured, "a captured group") for gid in owners.groups)


def _of_group(gid: int) -> Match:
    return Match(Field.SKGID, Operator.EQ, gid)


def interface_rules(names: Sequence[str], field: Field) -> tuple[Rule, ...]:
    """Leave alone what comes or goes by an excluded interface."""
    return tuple(
        Rule((Match(field, Operator.EQ, name),), RETURN, "an excluded interface") for name in names
    )
