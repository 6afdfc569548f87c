"""Units of systemd that are left alone: from their start on, and after each restart."""

import json

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.booted.test_stay import UNIT

AROUND, SLICE = "around.service", "around.slice"
LOG = "/run/around.log"
# Whoever goes through the proxy speaks mutual TLS to a program that speaks plain HTTP.
ASK = "curl -sS --max-time 10 -o /dev/null http://{address}:{port}/ 2>/dev/null"
LOOP = f"while :; do {ASK}; echo $? >>{LOG}; sleep 0.02; done"


@pytest.fixture
def excluding(machine: machines.Machine, ca: mesh.Authority) -> machines.Machine:
    """A machine that is in the mesh, and leaves a unit and a slice alone."""
    mesh.join(machine, ca)
    machine.run("systemctl", "stop", UNIT)
    own = machine.read(mesh.HOSTAGENT_ENV)
    own += f"ISTIO_HOSTAGENT_EXCLUDE_UNITS={AROUND},{SLICE}\n"
    machine.write(mesh.HOSTAGENT_ENV, own)
    machine.run("systemctl", "start", UNIT)
    mesh.wait_joined(machine)
    return machine


def ask(machine: machines.Machine, peer: machines.Machine, *options: str) -> int:
    """Ask from a unit of its own, which lives for one request; gives the status of curl."""
    command = ASK.format(address=peer.address, port=mesh.PLAIN_PORT)
    run = ["systemd-run", "-q", "--wait", *options, "sh", "-c", command]
    return machine.run(*run, check=False).returncode


def units_of(machine: machines.Machine) -> dict[str, str]:
    """Where the excluded units are, as the status says."""
    status = json.loads(machine.run("istio-hostagent", "status", "--json").stdout)
    return dict(status["redirection"]["excluded_units"])


def test_a_service_goes_around_after_each_start_and_others_never(
    excluding: machines.Machine, peer: machines.Machine
) -> None:
    loop = LOOP.format(address=peer.address, port=mesh.PLAIN_PORT)
    excluding.write("/opt/around", f"#!/bin/sh\n{loop}\n", mode="0755")
    excluding.write(f"/etc/systemd/system/{AROUND}", "[Service]\nExecStart=/opt/around\n")
    excluding.run("systemctl", "daemon-reload")
    for _ in range(4):
        excluding.write(LOG, "")
        excluding.run("systemctl", "restart", AROUND)

        def is_around() -> bool:
            return excluding.read(LOG).split()[-1:] == ["0"]

        network.wait_until(is_around, "the unit goes around", within_s=20)
        said = excluding.read(LOG).split()
        print(f"captured before: {said.index('0')} of {len(said)}")
        assert ask(excluding, peer) != 0, "another unit"
        assert mesh.ask(excluding, peer.address, mesh.PLAIN_PORT).status != 0
        assert mesh.ask(excluding, peer.address).status == 0
    # The rules of the last start may be those of the one before, whose group it has taken over.
    network.wait_until(
        lambda: units_of(excluding)[AROUND] == f"/system.slice/{AROUND}", "the status has it"
    )

    def is_in_place() -> bool:
        return excluding.run("istio-hostagent", "verify", check=False).returncode == 0

    network.wait_until(is_in_place, "the rules are in place", within_s=20)
    journal = excluding.journal(UNIT)
    assert "changed by somebody else" not in journal
    assert "bug" not in journal


def test_a_slice_that_stays_has_no_moment_in_which_its_units_are_captured(
    excluding: machines.Machine, peer: machines.Machine
) -> None:
    excluding.run("systemctl", "start", SLICE)

    def is_known() -> bool:
        is_there = units_of(excluding)[SLICE] == f"/{SLICE}"
        return is_there and ask(excluding, peer, f"--slice={SLICE}") == 0

    network.wait_until(is_known, "the slice is there", within_s=20)
    assert [ask(excluding, peer, f"--slice={SLICE}") for _ in range(10)] == [0] * 10
    assert ask(excluding, peer) != 0


def test_an_included_unit_is_captured_from_its_first_packet_on_and_no_other_is(
    machine: machines.Machine, ca: mesh.Authority, peer: machines.Machine
) -> None:
    mesh.provision(machine, ca)
    own = machine.read(mesh.HOSTAGENT_ENV) + "ISTIO_HOSTAGENT_INCLUDE_UNITS=member\n"
    machine.write(mesh.HOSTAGENT_ENV, own)
    mesh.wait_joined(machine)
    machine.run("systemd-run", "-q", "--unit=other", "sleep", "infinity")
    command = ASK.format(address=peer.address, port=mesh.PLAIN_PORT)
    group = "/sys/fs/cgroup/system.slice/other.service/cgroup.procs"
    inside = f"echo $$ >{group}; exec {command}"

    def is_around() -> bool:
        return machine.run("sh", "-c", inside, check=False).returncode == 0

    network.wait_until(is_around, "another unit goes around", within_s=20)
    statuses = [ask(machine, peer, "--unit=member") for _ in range(10)]
    assert 0 not in statuses
    assert is_around()
    verified = machine.run("istio-hostagent", "verify", "--json", check=False)
    assert verified.returncode == 0, verified.stdout
    status = json.loads(machine.run("istio-hostagent", "status", "--json").stdout)
    assert status["redirection"]["state"] == "proven", status["redirection"]


def test_the_guard_of_early_boot_knows_no_unit_and_the_agent_does(
    excluding: machines.Machine, peer: machines.Machine
) -> None:
    loop = LOOP.format(address=peer.address, port=mesh.PLAIN_PORT)
    excluding.write("/opt/around", f"#!/bin/sh\n{loop}\n", mode="0755")
    excluding.write(
        f"/etc/systemd/system/{AROUND}",
        "[Service]\nExecStart=/opt/around\n[Install]\nWantedBy=multi-user.target\n",
    )
    excluding.run("systemctl", "enable", "--now", "--quiet", AROUND)
    guard = excluding.read("/var/lib/istio-hostagent/guard.nft")
    assert "cgroup" not in guard
    excluding.reboot()
    mesh.wait_joined(excluding)

    def is_around() -> bool:
        return excluding.read(LOG).split()[-1:] == ["0"]

    network.wait_until(is_around, "the unit goes around", within_s=20)
    network.wait_until(
        lambda: excluding.run("istio-hostagent", "verify", check=False).returncode == 0, "proven"
    )
