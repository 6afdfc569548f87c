"""`plan`: what `apply` would change."""

from collections.abc import Iterator, Mapping

from ...host import layers
from ...redirect import plan, policy
from .. import reconcile
from . import configuration
from .kernel import locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> Iterator[str]:
    """Give the lines of a diff; changes nothing."""
    config, facts = configuration.require(environment, reading)
    with locked() as kernel:
        rules = policy.build_ruleset(config.redirection, facts)
        return plan.describe(reconcile.make_plan(rules, kernel))
