"""Rules on trial (`apply --confirm-within`) under systemd: whoever logs out takes nothing along."""

import json
from typing import Any

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh

UNITS = (
    "systemctl",
    "list-units",
    "--all",
    "--plain",
    "--no-legend",
    "istio-hostagent-fallback-*",
)
# What logind does at the end of a login with KillUserProcesses=yes.
END_LOGIN = ("systemctl", "kill", "--signal=KILL", "login.service")


@pytest.fixture
def trying(machine: machines.Machine) -> machines.Machine:
    """A machine whose agent is stopped, with a configuration to be tried."""
    machine.run("systemctl", "stop", "istio-hostagent")
    machine.write(
        "/var/lib/istio/envoy/cluster.env",
        f"CA_ADDR={network.ADDRESS}:15012\nISTIO_SERVICE_CIDR=10.96.0.0/12\n",
    )
    return machine


def log_in(machine: machines.Machine, within: str, *prefix: str) -> None:
    """Apply within a login, which stays; it is a unit, with a control group of its own."""
    script = f"istio-hostagent apply --confirm-within {within} && touch /run/applied; sleep 1000"
    unit = ("systemd-run", "--quiet", "--collect", "--unit=login", "--slice=user.slice")
    machine.run(*unit, *prefix, "sh", "-c", script)
    network.wait_until(lambda: machine.exists("/run/applied"), "the rules are in")


def unconfirmed(machine: machines.Machine, *prefix: str) -> dict[str, Any]:
    shown = machine.run(*prefix, "istio-hostagent", "status", "--json", check=False).stdout
    return dict(json.loads(shown)["unconfirmed"])


def test_the_end_of_a_login_and_a_kill_of_who_waits_keep_nothing_in(
    trying: machines.Machine,
) -> None:
    before = mesh.network_state(trying)
    log_in(trying, "30s")
    assert mesh.network_state(trying) != before
    trying.run(*END_LOGIN)
    first = unconfirmed(trying)["pid"]
    (unit, *_) = trying.run(*UNITS).stdout.split()
    assert trying.unit(unit, "MainPID", "ControlGroup") == {
        "MainPID": str(first),
        "ControlGroup": f"/system.slice/{unit}",
    }
    trying.run("kill", "-KILL", str(first))
    # systemd starts it again.
    network.wait_until(lambda: unconfirmed(trying)["pid"] not in (None, first), "it waits again")
    assert mesh.network_state(trying) != before
    network.wait_until(lambda: mesh.network_state(trying) == before, "it has gone back")
    assert unconfirmed(trying)["state"] == "taken back"
    assert "which nobody confirmed, were taken back" in trying.journal(unit)
    network.wait_until(lambda: not trying.run(*UNITS).stdout, "its unit is gone")


def test_what_is_confirmed_stays_and_leaves_no_unit(trying: machines.Machine) -> None:
    log_in(trying, "10m")
    tried = mesh.network_state(trying)
    trying.run("istio-hostagent", "apply", "--confirm")
    network.wait_until(lambda: not trying.run(*UNITS).stdout, "its unit is gone")
    assert mesh.network_state(trying) == tried
    assert not trying.exists("/var/lib/istio-hostagent/joined")
    # Whoever stops the unit does not wait any longer.
    trying.run("istio-hostagent", "clean")
    before = mesh.network_state(trying)
    trying.run("istio-hostagent", "apply", "--confirm-within", "10m")
    (unit, *_) = trying.run(*UNITS).stdout.split()
    trying.run("systemctl", "stop", unit)
    assert mesh.network_state(trying) == before


def test_rules_of_another_network_namespace_go_back_in_that_one(trying: machines.Machine) -> None:
    trying.run("ip", "netns", "add", "other")
    inside = ("ip", "netns", "exec", "other")
    listing = (*inside, "nft", "list", "ruleset")
    before = mesh.network_state(trying)
    log_in(trying, "25s", *inside)
    assert trying.run(*listing).stdout
    assert mesh.network_state(trying) == before
    trying.run(*END_LOGIN)
    (unit, *_) = trying.run(*UNITS).stdout.split()
    assert unit.endswith(".scope")
    assert unconfirmed(trying, *inside)["state"] == "waiting"
    network.wait_until(lambda: not trying.run(*listing).stdout, "it has gone back")


def test_starting_the_agent_ends_a_trial(trying: machines.Machine) -> None:
    before = mesh.network_state(trying)
    log_in(trying, "10m")
    trying.run("systemctl", "start", "istio-hostagent")
    assert mesh.network_state(trying) == before
    network.wait_until(lambda: not trying.run(*UNITS).stdout, "its unit is gone")
    refused = trying.run("istio-hostagent", "apply", "--confirm-within", "60s", check=False)
    assert refused.returncode == 75
    assert "refused while the agent runs" in refused.stderr
