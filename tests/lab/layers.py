"""What a layer of tests needs from the machine: without it its tests skip, or fail on demand.

The environment variable HOSTAGENT_REQUIRE lists layers (netns, envoy, booted, interop, nomad) that must not be
skipped: silent skipping is how coverage disappears.
"""

import os

import pytest

from . import netns


def require(layer: str, problem: str) -> None:
    """Do nothing if `problem` is empty; else skip, or fail if the layer is required."""
    if not problem:
        return
    if layer in os.environ.get("HOSTAGENT_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"HOSTAGENT_REQUIRE names {layer}: {problem}", pytrace=False)
    pytest.skip(problem)


def require_namespaces() -> None:
    """Skip or fail where network namespaces cannot be made (layer netns)."""
    require("netns", netns.missing())
