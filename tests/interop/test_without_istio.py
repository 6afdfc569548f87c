"""Without Istio's programs this layer skips and says how to get them; where required, it fails."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import BOOTSTRAP, ISTIOD, PILOT_AGENT

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]


Layer = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    """Run the tests of this layer that need Istio where nothing was built, with these variables."""
    ours = ("ISTIO_HOSTAGENT_TEST_", "HOSTAGENT_REQUIRE", "PYTEST_")
    others = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    files = [str(HERE / "test_istiod.py"), str(HERE / "test_pilot_agent.py")]

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-rs", *files],
            cwd=CHECKOUT,
            env={
                **others,
                "XDG_CACHE_HOME": str(tmp_path),
                "PYTEST_DEBUG_TEMPROOT": str(tmp_path),
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def test_everything_skips_and_names_the_target_and_the_variables(layer: Layer) -> None:
    done = layer()
    assert done.returncode == 0, done.stdout
    assert "passed" not in done.stdout
    assert f"`make peers` builds it, or set {ISTIOD} to its path" in done.stdout
    assert f"`make peers` builds it, or set {PILOT_AGENT} to its path" in done.stdout


def test_the_bootstrap_template_is_named_when_it_alone_is_missing(layer: Layer) -> None:
    done = layer(**{PILOT_AGENT: sys.executable})
    assert done.returncode == 0, done.stdout
    assert f"set {BOOTSTRAP} to its path" in done.stdout


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HOSTAGENT_REQUIRE": "interop"}, f"set {ISTIOD} to its path"),
        ({ISTIOD: "/nonexistent/pilot-discovery"}, "is no program"),
    ],
)
def test_it_fails_where_required_or_where_the_path_is_wrong(
    layer: Layer, variables: dict[str, str], said: str
) -> None:
    done = layer(**variables)
    assert done.returncode == 1, done.stdout
    assert said in done.stdout
    assert "passed" not in done.stdout
