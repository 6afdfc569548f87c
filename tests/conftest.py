"""Settings of all layers, and how a parallel run is cut into pieces and in which order.

Without pytest-xdist's `-n` none of this matters but the order.
"""

from pathlib import Path

import hypothesis
import pytest

from tests.lab import soak

# A slow machine is no failure: what has to be fast is measured by the bench. No database: an
# ordinary user may not be able to write here.
hypothesis.settings.register_profile(
    "any-machine",
    deadline=None,
    max_examples=soak.times(100, 3000),
    database=None,
    # Every run tries the same sample, or one change would be refused for what another has made;
    # `make soak` looks for what is new.
    derandomize=not soak.IS_SOAKING,
)
hypothesis.settings.load_profile("any-machine")

HERE = Path(__file__).parent
# Long waits first, so that what is left at the end is short.
LAYERS = (
    "booted",
    "conformance",
    "lifecycle",
    "agent",
    "netns",
    "interop",
    "worker",
    "envoy",
    "contract",
    "unit",
    "golden",
)
# What is made once for a module; each process would make one of its own.
OF_A_MODULE = {"rig", "site", "hosts", "graph"}
RELEASE = "suite"
FIRST_RELEASE = "bookworm"


@pytest.hookimpl(tryfirst=True)  # the marks are read by a later one
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LAYERS.index(layer_of(item)))
    for item in items:
        name = group_of(item)
        if name:
            item.add_marker(pytest.mark.xdist_group(name))


def layer_of(item: pytest.Item) -> str:
    """The directory that the test is in."""
    return item.path.relative_to(HERE).parts[0]


def group_of(item: pytest.Item) -> str:
    """Tests of one name run in one process, one after another; "" runs anywhere."""
    if layer_of(item) == "booted":
        # A release has a disk on which the package is installed.
        release = getattr(item, "callspec", None)
        params = release.params if release is not None else {}
        return f"booted-{params.get(RELEASE, FIRST_RELEASE)}"
    if OF_A_MODULE & set(getattr(item, "fixturenames", ())):
        return f"{layer_of(item)}-{item.path.stem}"
    return ""
