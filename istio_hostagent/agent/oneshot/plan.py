"""`plan`: what `apply` would change, for people and for programs."""

import itertools
from collections.abc import Mapping
from typing import Any

from ...config import capture
from ...host import layers
from ...redirect import policy
from ...redirect import takeover as remains
from . import configuration, takeover
from .kernel import ask, locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> dict[str, Any]:
    """Give the difference as lines and part by part, and what is to be known before.

    Changes nothing. The parts are made when they are asked for.
    """
    loaded, config, facts = configuration.require(environment, reading)
    with locked(config.redirection.back_end) as rules:
        desired = policy.build_ruleset(config.redirection, facts)
        made = ask(rules.plan, desired)
        # Rules of the operator's own may be those of Istio's scripts.
        found = takeover.look() if config.redirection.is_managed else remains.Outcome()
    taken = [each.text for each in found.found]
    warnings = [str(warning) for warning in loaded.warnings]
    warnings += [found.unknown] if found.unknown else []
    warnings += capture.describe_none(is_none=config.redirection.is_none)
    return {
        "lines": itertools.chain(made.lines, map(remains.render, taken)),
        "changes": (change.to_json() for change in made.details),
        "taken_over": taken,
        "warnings": warnings,
    }
