"""`apply`: the rules of the configuration into the kernel."""

from collections.abc import Iterator, Mapping

from ...host import layers
from ...redirect import plan, policy
from .. import reconcile
from . import configuration
from .kernel import locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> Iterator[str]:
    """Install the rules and read them back; returns the lines of the diff that was applied."""
    _, config, facts = configuration.require(environment, reading)
    with locked() as kernel:
        rules = policy.build_ruleset(config.redirection, facts)
        return plan.describe(reconcile.reconcile(rules, kernel))
