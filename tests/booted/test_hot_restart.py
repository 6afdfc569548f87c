"""Under systemd the next Envoy has a unit beside that of the one it takes over from."""

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.booted import cluster as network
from tests.booted import load, mesh
from tests.booted import machine as machines
from tests.booted.conftest import Disks, Start
from tests.lab import facts

AGENT = "istio-hostagent.service"
UNITS = ("istio-proxy@0.service", "istio-proxy@1.service")
# The load is over before the connections of the one before are ended.
DRAIN_S = 15
Pair = tuple[machines.Machine, machines.Machine]
Act = Callable[[machines.Machine], object]


@pytest.fixture
def pair(machine: machines.Machine, start: Start, installed: Disks, ca: mesh.Authority) -> Pair:
    """Two machines in the mesh; the second is of Debian 13 and stays as it is."""
    other = start("trixie", "other", layers=installed("trixie"))
    for each in (machine, other):
        load.serve(each)
    mesh.join(other, ca)
    # Its drain time is another one from the first start on: a change of it would be a hot restart.
    machine.run("systemctl", "stop", AGENT)
    mesh.provision(machine, ca)
    set_keys(machine)
    machine.run("systemctl", "start", AGENT)
    mesh.wait_joined(machine)
    return machine, other


def set_keys(machine: machines.Machine, *more: str) -> None:
    keys = (
        "ISTIO_HOSTAGENT_PROXY=envoy",
        f"ISTIO_HOSTAGENT_MESH_CIDR={mesh.MESH}",
        "ISTIO_HOSTAGENT_MTLS=strict",
        f"ISTIO_HOSTAGENT_RESTART_DRAIN={DRAIN_S}s",
        *more,
    )
    machine.write(mesh.HOSTAGENT_ENV, "".join(f"{key}\n" for key in keys))


def status(machine: machines.Machine) -> dict[str, Any]:
    told = machine.run("istio-hostagent", "status", "--json", check=False).stdout
    return dict(json.loads(told or '{"in_mesh": false, "proxy": {"epoch": -1, "other": null}}'))


def proxy(machine: machines.Machine) -> dict[str, Any]:
    return dict(status(machine)["proxy"])


def main_pids(machine: machines.Machine) -> list[str]:
    return [machine.unit(unit, "MainPID")["MainPID"] for unit in UNITS]


def has_taken_over(machine: machines.Machine, epoch: int) -> bool:
    told = proxy(machine)
    other = told["other"]
    if told["epoch"] != epoch or (other and other["state"] != "draining"):
        return False
    assert told["unit"] == UNITS[epoch % 2]
    # Once it has drained there is none.
    assert not other or other["unit"] == UNITS[1 - epoch % 2]
    return True


def is_alone(machine: machines.Machine) -> bool:
    """Whether one runs, in one unit, and nothing is about to change."""
    told = status(machine)
    is_quiet = "is being tried" not in told.get("summary", "")
    is_one = sorted(main_pids(machine))[0] == "0" and told["proxy"]["other"] is None
    return bool(told["in_mesh"] and is_quiet and is_one)


def change_key(machine: machines.Machine) -> None:
    set_keys(machine, "ISTIO_HOSTAGENT_ACCESS_LOG=true")


def upgrade(machine: machines.Machine) -> None:
    """As dpkg does: a new file, renamed."""
    machine.run("sh", "-c", "cp /usr/bin/envoy /usr/bin/envoy.new")
    machine.run("mv", "/usr/bin/envoy.new", "/usr/bin/envoy")


def change_and_kill(machine: machines.Machine) -> None:
    """The agent is killed as soon as there are two."""
    before = machine.unit(AGENT, "MainPID")["MainPID"]
    running = main_pids(machine).count("0")
    set_keys(machine, "ISTIO_HOSTAGENT_LOG_LEVEL=error")
    network.wait_until(lambda: main_pids(machine).count("0") != running, "another one runs")
    machine.run("kill", "-KILL", before)
    network.wait_until(
        lambda: machine.unit(AGENT, "MainPID")["MainPID"] not in ("0", before), "another agent"
    )


def change_and_restart(machine: machines.Machine) -> None:
    """The agent is restarted while connections of the one before are drained."""
    set_keys(machine, "ISTIO_HOSTAGENT_LOG_LEVEL=info")
    network.wait_until(
        lambda: (proxy(machine)["other"] or {}).get("state") == "draining", "it drains"
    )
    machine.run("systemctl", "restart", AGENT)


def test_the_next_envoy_takes_over_in_a_unit_beside(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    joined, other = pair
    acts: tuple[Act, ...] = (change_key, upgrade, change_and_kill, change_and_restart)
    for act in acts:
        epoch = proxy(joined)["epoch"]
        with load.between(joined, other) as found:
            act(joined)
            network.wait_until(
                functools.partial(has_taken_over, joined, epoch + 1), "it takes over", within_s=60
            )
            # A check of a bootstrap (--mode validate) is one more for a moment.
            network.wait_until(
                lambda: joined.run("pgrep", "-xc", "envoy").stdout in ("1\n", "2\n"),
                "no third one",
            )
        with capsys.disabled():
            print(f"\n{joined.suite}, {act.__name__}: {found}")
        facts.never(sum(found.around), f"around the proxy: {found}")
        assert found.failures == [], act
        # What an agent that was killed had only tried is tried once more by the next one.
        network.wait_until(functools.partial(is_alone, joined), "one is left", within_s=150)
        network.wait_until(
            lambda: joined.run("pgrep", "-xc", "envoy").stdout == "1\n", "nobody checks any more"
        )
    inode = joined.run("stat", "-Lc", "%i", "/usr/bin/envoy").stdout
    running = joined.run("sh", "-c", "stat -Lc %i /proc/$(pgrep -x envoy)/exe").stdout
    assert running == inode
    shared = joined.run("sh", "-c", "ls /dev/shm | grep -c envoy_shared_memory").stdout
    assert shared == "1\n"
    change_key(joined)
    network.wait_until(lambda: proxy(joined)["other"] is not None, "two run")
    joined.run("systemctl", "stop", AGENT)
    ended = ("pgrep", "envoy")
    network.wait_until(lambda: joined.run(*ended, check=False).returncode == 1, "both end")
    # RemoveIPC=: nothing is left behind.
    left = joined.run("sh", "-c", "ls /dev/shm | grep -c envoy_shared_memory", check=False)
    assert left.stdout == "0\n"
