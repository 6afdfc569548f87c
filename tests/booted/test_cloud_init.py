"""The user-data of the documentation, on a first boot: from nothing to in the mesh, by cloud-init."""

import textwrap
from collections.abc import Iterator

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.package import images, overlay, repository

USER_DATA = mesh.SOURCE / "docs/user-data.yaml"
SEED = "var/lib/cloud/seed/nocloud"
# The network is there already; the image has neither locales nor another source for apt; and the
# tests log in with the keys that every machine has.
CLOUD_CFG = """\
datasource_list: [NoCloud, None]
network: {config: disabled}
locale: C.UTF-8
apt: {preserve_sources_list: true}
ssh_deletekeys: false
"""


def user_data(archive: repository.Repository, ca: mesh.Authority, suite: str) -> str:
    """Fill in the documentation's example, as its first lines tell an operator to."""
    text = USER_DATA.read_text()
    for placeholder, value in (
        ("REPOSITORY-KEY", archive.public_key),
        ("ROOT-CERTIFICATE", ca.root_certificate),
        ("REPOSITORY SUITE", f"http://{network.ADDRESS}/ {suite}"),
        ('"TOKEN"', f'"{ca.token("orders")}"'),
        ("EAST-WEST-GATEWAY", network.ADDRESS),
        ("10.96.0.0/12", mesh.MESH),
        ("ISTIO_NAMESPACE=shop", f"ISTIO_NAMESPACE={mesh.NAMESPACE}"),
    ):
        assert placeholder in text
        text = text.replace(placeholder, textwrap.indent(value.strip(), " " * 6).lstrip())
    return text


@pytest.fixture
def seeded(
    cluster: network.Cluster, archive: repository.Repository, ca: mesh.Authority, suite: str
) -> Iterator[machines.Machine]:
    """A machine that boots for the first time, with user-data and nothing of ours installed."""
    cloud = images.layer(suite, "cloud-init")
    machine = machines.Machine(cluster, suite, "cloud", "10.200.1.254", layers=(cloud,))
    machine.on_disk(f"{SEED}/user-data", user_data(archive, ca, suite))
    machine.on_disk(f"{SEED}/meta-data", "instance-id: first\n")
    machine.on_disk("etc/cloud/cloud.cfg.d/90-tests.cfg", CLOUD_CFG)
    machine.on_disk("etc/apt/sources.list", "")
    with machine:
        yield machine


def assert_encrypted_on_the_wire(machine: machines.Machine, peer: machines.Machine) -> None:
    """Both directions are, and whoever has no certificate of the mesh is refused."""
    mesh.serve(machine)
    with mesh.wiretap(machine) as captured:
        answers = [mesh.ask(machine, peer.address), mesh.ask(peer, machine.address)]
    seen = captured.read_bytes()
    for answer in answers:
        assert answer.status == 0
        assert f"heard /{answer.secret}" in answer.body
        assert answer.secret.encode() not in seen
    assert b"\x16\x03\x01" in seen  # a TLS handshake
    url = f"http://{machine.address}:{mesh.PORT}/"
    with pytest.raises(overlay.CommandFailed):
        machine.cluster.run("curl", "-sS", "--max-time", "15", url)
    status = machine.run("istio-hostagent", "status").stdout
    assert f"captured traffic to {mesh.MESH} is encrypted (mutual TLS)" in status
    assert "plain text is refused on captured ports" in status


def test_user_data_alone_puts_a_new_machine_into_the_mesh(
    seeded: machines.Machine, cluster: network.Cluster, peer: machines.Machine
) -> None:
    status = seeded.run("cloud-init", "status", "--wait", "--long", check=False)
    assert "status: done" in status.stdout, seeded.read("/var/log/cloud-init-output.log")
    assert "valid" in seeded.run("cloud-init", "schema", "--system").stdout.lower()
    # runcmd has waited for the mesh already.
    mesh.wait_joined(seeded, 20)
    assert_encrypted_on_the_wire(seeded, peer)
    assert cluster.ssh(seeded.address, "true").returncode == 0

    seeded.reboot()
    mesh.wait_joined(seeded)
