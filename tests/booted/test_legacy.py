"""Rules in legacy tables on booted machines: the sandbox of the unit, and who leaves and who stays."""

import functools

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.booted.test_stay import BROKEN, MARKER, REFUSED, STOP, UNIT

KEY = "ISTIO_HOSTAGENT_BACKEND=legacy\n"


@pytest.fixture
def joined(machine: machines.Machine, ca: mesh.Authority) -> machines.Machine:
    mesh.provision(machine, ca)
    machine.write(mesh.HOSTAGENT_ENV, machine.read(mesh.HOSTAGENT_ENV) + KEY)
    # It may have joined with the key of before.
    machine.run("systemctl", "stop", "istio-hostagent")
    network.wait_until(lambda: not mesh.table_names(machine), "the guard is gone", within_s=20)
    machine.run("systemctl", "start", "istio-hostagent")
    mesh.wait_joined(machine)
    return machine


def _runs_again(machine: machines.Machine, before: str) -> bool:
    return machine.unit(UNIT, "MainPID")["MainPID"] not in ("0", before)


def rules(machine: machines.Machine) -> list[str]:
    """Every rule of ours, in both families."""
    saves = "iptables-legacy-save; ip6tables-legacy-save"
    listing = machine.run("sh", "-c", saves).stdout.splitlines()
    return [line for line in listing if "ISTIO" in line and line.startswith("-A")]


def test_a_machine_joins_stays_and_leaves(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    before = rules(joined)
    assert before and not mesh.table_names(joined)
    assert mesh.ask(joined, peer.address).status == 0
    assert joined.run("istio-hostagent", "verify").returncode == 0
    for act in ("restart", "kill"):
        pid = joined.unit(UNIT, "MainPID")["MainPID"]
        if act == "restart":
            joined.run("systemctl", "restart", UNIT)
        else:
            joined.run("kill", "-KILL", pid)
            network.wait_until(functools.partial(_runs_again, joined, pid), "the agent is back")
        assert rules(joined) == before
        mesh.wait_joined(joined)
        assert mesh.ask(joined, peer.address).status == 0
    joined.run(*STOP)
    network.wait_until(lambda: not joined.exists(MARKER), "the mark is gone", within_s=20)
    assert rules(joined) == []
    assert joined.run("curl", "-sSI", f"http://{network.ADDRESS}/").returncode == 0


def test_the_guard_holds_from_early_boot_on(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    joined.write("/etc/systemd/system/istio-hostagent.service.d/break.conf", BROKEN)
    joined.reboot()
    assert all("GUARD" in rule for rule in rules(joined))
    assert mesh.ask(joined, peer.address).status == REFUSED
    joined.run("rm", "/etc/systemd/system/istio-hostagent.service.d/break.conf")
    joined.run("systemctl", "daemon-reload")
    joined.run("systemctl", "restart", UNIT)
    mesh.wait_joined(joined)
    assert mesh.ask(joined, peer.address).status == 0
    # Removal of the package leaves nothing either.
    joined.run("apt-get", "-q", "-y", "remove", "istio-hostagent")
    assert rules(joined) == []
