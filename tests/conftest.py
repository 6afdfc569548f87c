"""Settings of all layers, and how a parallel run is cut into pieces and in which order.

Without pytest-xdist's `-n` none of this matters but the order.
"""

import collections
from pathlib import Path

import hypothesis
import pytest

from tests.booted import coexistence
from tests.lab import soak

# A slow machine is no failure: what has to be fast is measured by the bench. No database: an
# ordinary user may not be able to write here.
hypothesis.settings.register_profile(
    "any-machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
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
OF_A_MODULE = {"rig", "site", "hosts", "graph", "api"}
# These take the lock of xtables, of which a machine has one, again and again.
OF_XTABLES = {"test_legacy", "test_load"}
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
    if item.path.stem in OF_XTABLES:
        return f"{layer_of(item)}-xtables"
    if OF_A_MODULE & set(getattr(item, "fixturenames", ())):
        return f"{layer_of(item)}-{item.path.stem}"
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the time went, and what was counted while soaking: a test that passes says nothing."""
    _tell_minutes(terminalreporter)
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    for report in reports if soak.IS_SOAKING else ():
        for name, value in report.user_properties:
            if name == soak.FIGURE and report.when == "call":
                terminalreporter.write_line(f"{value}")
    every = (each for stat in terminalreporter.stats.values() for each in stat)
    cells = [
        coexistence.Cell(*cell)
        for report in every
        for name, value in getattr(report, "user_properties", ())
        if name == coexistence.PROPERTY and report.when == "teardown"
        for cell in value
    ]
    if cells:
        terminalreporter.section("beside other programs")
        terminalreporter.write_line(coexistence.render(cells))


def _tell_minutes(terminalreporter: pytest.TerminalReporter) -> None:
    """The minutes of each layer, of which those of one release of booted machines follow each other."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                path, _, name = report.nodeid.partition("::")
                parts = Path(path).parts
                release = name.rpartition("@booted-")[2] if "@booted-" in name else ""
                seconds[" ".join((*parts[1:2], release)).strip()] += report.duration
    if sum(seconds.values()) > 60:
        spent = sorted(seconds.items(), key=lambda each: -each[1])
        minutes = (f"{layer} {each / 60:.1f}" for layer, each in spent)
        terminalreporter.write_line(f"minutes of tests: {', '.join(minutes)}")
