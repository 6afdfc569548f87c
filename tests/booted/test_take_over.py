"""Ours is installed on a host that Istio's own package serves, under load: nobody notices."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import conftest, mesh, names, sidecar
from tests.booted import machine as machines
from tests.interop import conftest as interop
from tests.interop import istiod as istiods
from tests.lab import facts
from tests.package import repository

SERVER = "10.200.1.250"
UNIT = "istio-hostagent.service"
# With the files that were there before.
KEEPING = ("apt-get", "-q", "-y", "-o", "Dpkg::Options::=--force-confold", *conftest.INSTALL[3:])
MOST = 4000
# SYNs are sent again after 1, 3, 7 and 15 seconds.
LONGEST_S = 16.5


@pytest.fixture(scope="module")
def server(cluster: network.Cluster) -> Iterator[str]:
    """Somebody in the mesh's network who answers in plain text."""
    sidecar.serve_beside(cluster, SERVER)
    application = cluster.directory / "application.py"
    application.write_text(mesh.APPLICATION)
    words = ("/usr/bin/python3", str(application), str(mesh.PLAIN_PORT), "server")
    with cluster.running(*words, log="server.log"):
        network.wait_until(lambda: cluster.connects(mesh.PLAIN_PORT, SERVER), "it serves")
        yield SERVER


@pytest.fixture(scope="module")
def modern(cluster: network.Cluster, envoy: Path) -> Path:
    """Istio's package of today."""
    agent = interop.find_file(interop.PILOT_AGENT, interop.BUILT / "pilot-agent", "a pilot-agent")
    bootstrap = interop.find_file(interop.BOOTSTRAP, agent.with_name("envoy_bootstrap.json"), "it")
    return sidecar.modern_package(cluster.directory, agent, bootstrap, envoy)


@pytest.fixture(scope="module")
def classic(cluster: network.Cluster) -> Path:
    """Istio's package of the classic releases."""
    return sidecar.classic_package(cluster.directory)


def install(
    machine: machines.Machine, archive: repository.Repository, suite: str, package: Path
) -> None:
    extra = f"{suite}-{package.stem}"
    needed = repository.debian_packages(suite, *sidecar.DEPENDS)
    archive.publish(extra, [package, *needed])
    conftest.add_source(machine, extra)
    machine.run(
        "apt-get", "-q", "-y", "--no-install-recommends", "install", "istio-sidecar", within_s=400
    )
    mesh.serve(machine)


def wait_served(machine: machines.Machine) -> None:
    """Return once the proxy of Istio's package is ready; raises Timeout with what it says."""
    ready = ("curl", "-sf", "--max-time", "10", "http://127.0.0.1:15021/healthz/ready")
    try:
        network.wait_until(
            lambda: machine.run(*ready, check=False).returncode == 0, "theirs is ready", 60
        )
    except network.Timeout as error:
        log = machine.run("sh", "-c", "tail -n 20 /var/log/istio/*", check=False).stdout
        raise network.Timeout(f"{error}\n{machine.journal('istio.service')}\n{log}") from None


def wait_classic(machine: machines.Machine, server: str) -> None:
    """Return once the classic pair serves: before its rules are in an answer says nothing."""
    listening = ("ss", "-Hltn", "sport", "=", ":15001")
    network.wait_until(
        lambda: "ISTIO_OUTPUT" in rules(machine) and bool(machine.run(*listening).stdout),
        "theirs captures and listens",
    )
    network.wait_until(lambda: answers(machine, server), "theirs serves")


def check(
    machine: machines.Machine, clients: sidecar.Clients, longest_s: float = LONGEST_S
) -> None:
    """Nobody was refused, failed, or went around a proxy."""
    loads = clients.end()
    rejects = machine.run("sh", "-c", "nft list ruleset | grep -E 'reject|drop'", check=False)
    print(loads, rejects.stdout, machine.journal("istio.service"), sep="\n")
    assert_none_around(machine)
    for load in loads:
        assert load.asked == load.answered, load
        assert load.asked > 100
        assert load.longest_s < longest_s


def assert_none_around(machine: machines.Machine) -> None:
    around = sidecar.around(machine)
    facts.never(around != {"sent": 0, "arrived": 0}, f"around the proxy: {around}")


def held_s(machine: machines.Machine) -> float:
    status = json.loads(machine.run("istio-hostagent", "status", "--json").stdout)
    print(status["predecessor"])
    return float(status["predecessor"]["held_s"])


def rules(machine: machines.Machine) -> str:
    """Those of both kinds of iptables."""
    return machine.run("sh", "-c", "iptables-nft-save; iptables-legacy-save").stdout


def answers(machine: machines.Machine, server: str) -> bool:
    return mesh.ask(machine, server, mesh.PLAIN_PORT).status == 0


def test_istio_sidecar_is_replaced_and_comes_back(
    provided: machines.Machine,
    archive: repository.Repository,
    suite: str,
    control: istiods.Istiod,
    modern: Path,
    server: str,
) -> None:
    install(provided, archive, suite, modern)
    names.provision(
        provided, control, ISTIO_SERVICE_CIDR=mesh.MESH, ISTIO_META_DNS_CAPTURE="false"
    )
    provided.write(
        mesh.HOSTAGENT_ENV, "ISTIO_BOOTSTRAP=/var/lib/istio/envoy/envoy_bootstrap_tmpl.json\n"
    )
    provided.run("systemctl", "enable", "--now", "--quiet", "istio")
    wait_served(provided)
    theirs = provided.unit("istio.service", "MainPID")["MainPID"]
    assert answers(provided, server)
    sidecar.count_around(provided, mesh.PLAIN_PORT)

    clients = sidecar.Clients(provided, server, mesh.PLAIN_PORT, MOST)
    done = provided.run(*KEEPING, within_s=400)
    assert "is a unit of yours" not in done.stderr
    mesh.wait_joined(provided, within_s=90)
    check(provided, clients)

    assert provided.run("kill", "-0", theirs, check=False).returncode == 1
    assert provided.unit("istio.service", "Id", "ActiveState") == {
        "Id": UNIT,
        "ActiveState": "active",
    }
    assert held_s(provided) < 30
    journal = provided.journal(UNIT)
    assert re.search(r"took over from istio.service; new connections waited for [\d.]+ s", journal)
    assert "handover" not in provided.run("nft", "list", "tables").stdout
    assert "ISTIO" not in rules(provided)
    assert provided.exists("/usr/local/bin/istio-start.sh")

    provided.reboot()
    mesh.wait_joined(provided)
    assert answers(provided, server)

    provided.run("apt-get", "-q", "-y", "remove", "istio-hostagent")
    assert mesh.table_names(provided) == []
    assert provided.run("systemctl", "is-enabled", "istio").stdout.strip() == "enabled"
    provided.run("systemctl", "start", "istio")
    wait_served(provided)
    assert provided.unit("istio.service", "Id")["Id"] == "istio.service"
    assert "ISTIO_OUTPUT" in rules(provided)
    assert answers(provided, server)


def test_where_ours_cannot_join_theirs_goes_on(
    provided: machines.Machine,
    archive: repository.Repository,
    suite: str,
    control: istiods.Istiod,
    modern: Path,
    server: str,
) -> None:
    install(provided, archive, suite, modern)
    names.provision(
        provided, control, ISTIO_SERVICE_CIDR=mesh.MESH, ISTIO_META_DNS_CAPTURE="false"
    )
    # Ours starts an Envoy that ends at once.
    provided.write("/opt/broken/pilot-agent", "#!/bin/sh\nexit 3\n", mode="0755")
    provided.write("/opt/broken/envoy", "#!/bin/sh\nexit 3\n", mode="0755")
    provided.write(
        mesh.HOSTAGENT_ENV, "ISTIO_BIN_BASE=/opt/broken\nISTIO_HOSTAGENT_PROXY=pilot-agent\n"
    )
    provided.run("systemctl", "start", "istio")
    wait_served(provided)
    sidecar.count_around(provided, mesh.PLAIN_PORT)
    clients = sidecar.Clients(provided, server, mesh.PLAIN_PORT, MOST)
    provided.run(*KEEPING, within_s=400)
    network.wait_until(
        lambda: "not taken over from another agent" in _summary(provided), "the reason", 120
    )
    wait_served(provided)
    network.wait_until(lambda: mesh.table_names(provided) == [], "ours are out")
    loads = clients.end()
    assert_none_around(provided)
    for load in loads:
        assert load.asked == load.answered, load
    assert provided.unit("istio.service", "Id")["Id"] == "istio.service"


def test_a_name_to_which_other_units_refer_is_ours_from_the_next_boot_on(
    provided: machines.Machine,
    archive: repository.Repository,
    suite: str,
    ca: mesh.Authority,
    classic: Path,
    server: str,
) -> None:
    install(provided, archive, suite, classic)
    unit = "[Unit]\nAfter=istio.service\n[Service]\nExecStart=/bin/sleep infinity\n"
    provided.write("/etc/systemd/system/user.service", unit)
    provided.run("systemctl", "start", "istio", "istio-auth-node-agent", "user")
    mesh.provision(provided, ca)
    provided.write(mesh.HOSTAGENT_ENV, "ISTIO_HOSTAGENT_PROXY=envoy\n")
    provided.run(*KEEPING, within_s=400)
    mesh.wait_joined(provided, within_s=60)
    agent = provided.unit(UNIT, "MainPID", "ActiveState")
    # systemd would lose it with every other reload.
    for _ in range(4):
        provided.run("systemctl", "daemon-reload")
        assert provided.unit(UNIT, "MainPID", "ActiveState") == agent
    assert agent["ActiveState"] == "active"
    assert provided.unit("istio.service", "Id")["Id"] == "istio.service"
    assert "other units refer to it" in provided.journal(UNIT)
    provided.reboot()
    mesh.wait_joined(provided)
    assert provided.unit("istio.service", "Id")["Id"] == UNIT


def test_where_ours_cannot_join_the_classic_pair_goes_on(
    provided: machines.Machine,
    archive: repository.Repository,
    suite: str,
    ca: mesh.Authority,
    classic: Path,
    server: str,
) -> None:
    install(provided, archive, suite, classic)
    # It finds nothing wrong with a bootstrap, and ends when it is to serve.
    script = (
        '#!/bin/sh\ncase "$*" in *validate*|*version*) exec /usr/bin/envoy "$@";; esac\nexit 3\n'
    )
    provided.write("/opt/broken/envoy", script, mode="0755")
    provided.run("systemctl", "start", "istio", "istio-auth-node-agent")
    wait_classic(provided, server)
    sidecar.count_around(provided, mesh.PLAIN_PORT)
    clients = sidecar.Clients(provided, server, mesh.PLAIN_PORT, MOST)
    mesh.provision(provided, ca)
    keys = "ISTIO_HOSTAGENT_PROXY=envoy\nISTIO_HOSTAGENT_ENVOY=/opt/broken/envoy\n"
    provided.write(mesh.HOSTAGENT_ENV, keys)
    provided.run(*KEEPING, within_s=400)
    network.wait_until(
        lambda: "not taken over from another agent" in _summary(provided), "the reason", 120
    )
    network.wait_until(lambda: mesh.table_names(provided) == [], "ours are out")
    check(provided, clients, longest_s=30)  # ours is started several times before it is given up
    assert answers(provided, server)
    assert provided.unit("istio.service", "Id")["Id"] == "istio.service"


def _summary(machine: machines.Machine) -> str:
    return machine.unit(UNIT, "StatusText")["StatusText"]


def test_the_classic_pair_is_replaced(
    provided: machines.Machine,
    archive: repository.Repository,
    suite: str,
    ca: mesh.Authority,
    classic: Path,
    server: str,
) -> None:
    install(provided, archive, suite, classic)
    provided.run("systemctl", "start", "istio", "istio-auth-node-agent")
    wait_classic(provided, server)
    sidecar.count_around(provided, mesh.PLAIN_PORT)
    clients = sidecar.Clients(provided, server, mesh.PLAIN_PORT, MOST)
    mesh.provision(provided, ca)
    provided.write(mesh.HOSTAGENT_ENV, "ISTIO_HOSTAGENT_PROXY=envoy\n")
    provided.run(*KEEPING, within_s=400)
    mesh.wait_joined(provided, within_s=60)
    check(provided, clients)
    # Those from outside wait for the proof as well.
    assert held_s(provided) < LONGEST_S
    for each in ("proxy", "agent"):
        assert provided.exists(f"/var/log/istio/{each}-ended"), each
    for name in ("istio", "istio-auth-node-agent"):
        assert "hostagent" in provided.unit(f"{name}.service", "Id")["Id"]

    provided.run("apt-get", "-q", "-y", "remove", "istio-hostagent")
    provided.run("systemctl", "start", "istio", "istio-auth-node-agent")
    wait_classic(provided, server)
    assert provided.unit("istio.service", "Id")["Id"] == "istio.service"
