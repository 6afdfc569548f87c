"""`plan`: what `apply` would change."""

from collections.abc import Mapping
from typing import Any

from ...host import layers
from ...redirect import plan, policy
from .. import reconcile
from . import configuration
from .kernel import locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> dict[str, Any]:
    """Give the lines of a diff, and what is to be known before; changes nothing."""
    loaded, config, facts = configuration.require(environment, reading)
    with locked() as kernel:
        rules = policy.build_ruleset(config.redirection, facts)
        lines = list(plan.describe(reconcile.make_plan(rules, kernel)))
    return {"lines": lines, "warnings": [str(warning) for warning in loaded.warnings]}
