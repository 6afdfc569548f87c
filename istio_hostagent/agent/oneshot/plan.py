"""`plan`: what `apply` would change, for people and for programs."""

import itertools
from collections.abc import Mapping
from typing import Any

from ...host import layers
from ...redirect import plan, policy
from ...redirect import takeover as remains
from .. import reconcile
from . import configuration, takeover
from .kernel import locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> dict[str, Any]:
    """Give the difference as lines and part by part, and what is to be known before.

    Changes nothing. The parts are made when they are asked for.
    """
    loaded, config, facts = configuration.require(environment, reading)
    with locked() as kernel:
        rules = policy.build_ruleset(config.redirection, facts)
        made = reconcile.make_plan(rules, kernel)
        # Rules of the operator's own may be those of Istio's scripts.
        found = takeover.look() if config.redirection.is_managed else remains.Outcome()
    taken = [each.text for each in found.found]
    return {
        "lines": itertools.chain(plan.describe(made), map(remains.render, taken)),
        "changes": (change.to_json() for change in plan.list_changes(made)),
        "taken_over": taken,
        "warnings": [str(warning) for warning in loaded.warnings],
    }
