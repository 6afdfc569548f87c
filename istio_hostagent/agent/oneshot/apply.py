"""`apply` and `plan`: the rules of the configuration, and what is there instead."""

from collections.abc import Mapping

from ...redirect import plan as plans
from ...redirect import policy
from .. import reconcile
from . import configuration
from .kernel import locked


def plan(environment: Mapping[str, str]) -> tuple[str, ...]:
    """What `apply` would change, as lines of a diff; changes nothing."""
    config, facts = configuration.require(environment)
    with locked() as kernel:
        rules = policy.build_ruleset(config.redirection, facts)
        return plans.describe(reconcile.make_plan(rules, kernel))


def apply(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Install the rules and read them back; returns the lines of the diff that was applied."""
    config, facts = configuration.require(environment)
    with locked() as kernel:
        rules = policy.build_ruleset(config.redirection, facts)
        return plans.describe(reconcile.reconcile(rules, kernel))
