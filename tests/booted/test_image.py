"""Machines made of one image: each is a host of its own, whatever the image's machine was."""

import json
from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.booted.conftest import Disks, Start

STATE = "/var/lib/istio-hostagent"
CERTS = "/etc/certs"


def files(machine: machines.Machine) -> set[str]:
    """What lies where the agent keeps who this host is."""
    found = machine.run("find", STATE, CERTS, "/var/lib/istio", "-not", "-type", "d").stdout
    return set(found.split())


def identity_of(machine: machines.Machine) -> dict[str, str]:
    """By what the mesh, and whoever reads its files, knows a host."""
    certificate = json.loads(machine.run("istio-hostagent", "status", "--json").stdout)
    return {
        "key": machine.read(f"{CERTS}/key.pem"),
        "chain": machine.read(f"{CERTS}/cert-chain.pem"),
        "name": certificate["certificate"]["identity"],
        "serial": certificate["certificate"]["serial"],
        "address": machine.read(f"{STATE}/address").strip(),
    }


@pytest.fixture
def used(
    start: Start,
    suite: str,
    installed: Disks,
    ca: mesh.Authority,
    cluster: network.Cluster,
    tmp_path: Path,
) -> tuple[Path, ...]:
    """The disk of a machine that was in the mesh, was stopped and reset."""
    below = installed(suite)
    machine = start(suite, "golden", layers=below)
    mesh.join(machine, ca)
    assert machine.run("istio-hostagent", "reset", check=False).returncode == 75
    machine.run("systemctl", "stop", "istio-hostagent")
    machine.run("istio-hostagent", "reset", "--all")
    kept = {mesh.CLUSTER_ENV, f"{CERTS}/root-cert.pem"}
    assert files(machine) == kept
    machine.run("rm", "-f", *kept)  # the next one is configured by its own user data
    return machine.keep_disk(cluster.directory / f"golden-{suite}"), *below


@pytest.mark.parametrize("image", ["with the package alone", "of a host that was reset"])
def test_two_clones_share_nothing(
    request: pytest.FixtureRequest,
    start: Start,
    suite: str,
    installed: Disks,
    ca: mesh.Authority,
    image: str,
) -> None:
    disks = request.getfixturevalue("used") if "reset" in image else installed(suite)
    clones = [start(suite, "clone", layers=disks) for _ in range(2)]
    for clone in clones:
        assert files(clone) == set()
        mesh.join(clone, ca)
    first, second = map(identity_of, clones)
    for name in first:
        assert first[name] != second[name], f"both have the same {name}"
    assert [first["address"], second["address"]] == [clone.address for clone in clones]
