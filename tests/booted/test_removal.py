"""Removal, purge and installing again: what we wrote goes, what others wrote stays."""

import pytest

from tests.booted import cluster as network
from tests.booted import conftest, mesh
from tests.booted import machine as machines

PURGE = ("apt-get", "-q", "-y", "purge", "istio-hostagent")
# Other people's books: the package manager's, the system user's, logs and caches.
OTHERS = (
    *("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/.pwd.lock"),
    *("/etc/ld.so.cache", "/etc/mtab", "/var/cache", "/var/log", "/var/tmp"),
    *("/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd", "/var/lib/python"),
)


@pytest.fixture
def prepared(provided: machines.Machine) -> machines.Machine:
    """A machine with everything the package depends on, and what Istio's own package leaves."""
    provided.run("useradd", "--system", "--home", "/var/lib/istio", "istio-proxy")
    provided.run("install", "-d", "-o", "istio-proxy", "-g", "istio-proxy", "/etc/certs")
    provided.write("/etc/certs/operators.pem", "an operator's\n")
    return provided


def test_purge_removes_what_we_wrote_and_nothing_else_and_reinstall_works(
    prepared: machines.Machine, ca: mesh.Authority, peer: machines.Machine
) -> None:
    before = _files(prepared)
    state = mesh.network_state(prepared)
    running = _running(prepared)
    prepared.run(*conftest.INSTALL)
    mesh.join(prepared, ca)
    assert _running(prepared) != running
    assert mesh.ask(prepared, peer.address).status == 0
    prepared.run(*PURGE)

    # At once, when apt returns: nobody waits for a guard that is still going.
    assert mesh.network_state(prepared) == state
    assert _running(prepared) == running
    operators = {
        mesh.CLUSTER_ENV: mesh.cluster_env(ca, prepared.name),
        mesh.ROOT_CERT: ca.root_certificate,
    }
    for path, text in operators.items():
        assert prepared.read(path) == text
    after = _files(prepared)
    assert after.keys() - before.keys() <= operators.keys() | {
        # Where the operator's own files lie.
        *("/var/lib/istio", "/var/lib/istio/envoy"),
    }
    assert before.items() <= after.items()

    prepared.run(*conftest.INSTALL)
    mesh.provision(prepared, ca)
    # It may have joined with the files of before; what is asked below needs the new ones.
    prepared.run("istio-hostagent", "reload")
    mesh.wait_joined(prepared)
    assert mesh.ask(prepared, peer.address).status == 0


def test_purge_of_a_machine_that_never_joined_leaves_no_directory(
    provided: machines.Machine,
) -> None:
    provided.run(*conftest.INSTALL)
    provided.run(*PURGE)
    for path in ("/etc/certs", "/etc/istio-hostagent", "/var/lib/istio", "/run/istio-hostagent"):
        assert not provided.exists(path), path


def test_remove_leaves_the_mesh_and_keeps_the_configuration(
    machine: machines.Machine, ca: mesh.Authority, cluster: network.Cluster
) -> None:
    before = mesh.network_state(machine)
    mesh.join(machine, ca)
    settings = machine.read(mesh.HOSTAGENT_ENV)
    machine.run("apt-get", "-q", "-y", "remove", "istio-hostagent")
    assert mesh.network_state(machine) == before
    assert machine.read(mesh.HOSTAGENT_ENV) == settings
    # A dangling istio.service would hide the unit of that name in Istio's own package. That ours
    # was enabled is remembered, as by every package.
    assert not machine.run("find", "/etc/systemd", "-name", "istio.service").stdout
    assert cluster.ssh(machine.address, "true").returncode == 0

    machine.run(*conftest.INSTALL)
    mesh.wait_joined(machine)


def test_a_disabled_agent_is_still_disabled_when_it_is_installed_again(
    machine: machines.Machine,
) -> None:
    machine.run("systemctl", "disable", "--now", "--quiet", "istio-hostagent")
    machine.run("apt-get", "-q", "-y", "remove", "istio-hostagent")
    machine.run(*conftest.INSTALL)
    unit = machine.unit("istio-hostagent.service", "UnitFileState", "ActiveState")
    # The second: its other name, which a generator makes at each boot, is there (systemctl(1)).
    assert unit["UnitFileState"] in ("disabled", "indirect")
    assert unit["ActiveState"] == "inactive"


def test_purge_gives_back_another_output_directory(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    directory = "/etc/mesh"
    machine.run("install", "-d", "-o", "istio-proxy", directory, "/etc/other")
    machine.write(f"{directory}/key.pem", "an operator's\n", owner="istio-proxy")
    # The agent would begin to join with the first file, before the setting is there.
    machine.run("systemctl", "stop", "istio-hostagent.service")
    mesh.provision(machine, ca)
    # The second change is taken as soon as the first one's hot restart is over.
    settings = f"{machine.read(mesh.HOSTAGENT_ENV)}ISTIO_HOSTAGENT_RESTART_DRAIN=1s\n"
    machine.write(mesh.HOSTAGENT_ENV, f"{settings}OUTPUT_CERTS={directory}\n")
    machine.run("systemctl", "start", "istio-hostagent.service")
    mesh.wait_joined(machine)
    network.wait_until(
        lambda: machine.exists(f"{directory}/cert-chain.pem"), "the certificate is there"
    )
    # What was used before is given back as soon as the new one works, not only at purge.
    machine.write(mesh.HOSTAGENT_ENV, f"{settings}OUTPUT_CERTS=/etc/other\n")
    network.wait_until(lambda: not machine.exists(f"{directory}/..data"), "it is given back")
    assert machine.read(f"{directory}/key.pem") == "an operator's\n"
    machine.write(mesh.HOSTAGENT_ENV, f"{settings}OUTPUT_CERTS={directory}\n")
    network.wait_until(lambda: machine.exists(f"{directory}/..data"), "it is in use again")
    mesh.wait_joined(machine)

    machine.run(*PURGE)
    assert machine.run("ls", "-A", directory, "/etc/other").stdout.split() == [
        "/etc/mesh:",
        "key.pem",
        "/etc/other:",
    ]
    assert machine.read(f"{directory}/key.pem") == "an operator's\n"


def test_an_upgrade_keeps_the_rules_and_restarts_the_agent(
    machine: machines.Machine, ca: mesh.Authority, peer: machines.Machine
) -> None:
    mesh.join(machine, ca)
    before = machine.unit("istio-hostagent.service", "MainPID")
    guard = machine.unit("istio-redirect.service", "ActiveEnterTimestampMonotonic")
    machine.run(*conftest.INSTALL[:-1], "--reinstall", "istio-hostagent")
    assert machine.unit("istio-hostagent.service", "MainPID") != before
    assert machine.unit("istio-redirect.service", "ActiveEnterTimestampMonotonic") == guard
    mesh.wait_joined(machine)
    assert mesh.ask(machine, peer.address).status == 0


def _running(machine: machines.Machine) -> list[str]:
    """What is ours in /run, in control groups and among units; the token is the operator's."""
    places = ("/run", "/sys/fs/cgroup", "-xdev")
    ours = ("-name", "*istio*", "-not", "-name", "istio-token")
    links = ("-o", "-name", "workload-spiffe-uds")
    found = machine.run("find", *places, "(", *ours, *links, ")", check=False).stdout.split()
    units = machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "*istio*")
    return sorted(found) + units.stdout.splitlines()


def _files(machine: machines.Machine) -> dict[str, str]:
    """Every path of the machine's disk with what a change of it would change."""
    skipped = [word for path in OTHERS for word in ("-path", path, "-prune", "-o")]
    # Directories without their times and sizes: files of others come and go in them.
    show = ["-type", "d", "-printf", "%p\t%M %U %G\n", "-o", "-printf", "%p\t%M %U %G %s %l\n"]
    caches = ["-name", "__pycache__", "-prune", "-o"]
    listing = machine.run("find", "/", "-xdev", *skipped, *caches, *show).stdout
    return dict(line.split("\t", 1) for line in listing.splitlines())


def test_an_upgrade_does_not_start_an_agent_that_was_stopped(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    """Invariant 8: who has taken the host out of the mesh finds it there."""
    before = mesh.network_state(machine)
    mesh.join(machine, ca)
    machine.run("systemctl", "start", "istio-auth-node-agent")
    machine.run("systemctl", "stop", "istio-hostagent")
    network.wait_until(lambda: not mesh.table_names(machine), "the guard is gone", within_s=20)
    machine.run(*conftest.INSTALL[:-1], "--reinstall", "istio-hostagent")
    unit = machine.unit("istio-hostagent.service", "ActiveState", "UnitFileState")
    assert unit == {"ActiveState": "inactive", "UnitFileState": "enabled"}
    assert mesh.network_state(machine) == before
    machine.run("systemctl", "start", "istio-hostagent")
    mesh.wait_joined(machine)
    machine.run(*conftest.INSTALL[:-1], "--reinstall", "istio-hostagent")
    mesh.wait_joined(machine)
