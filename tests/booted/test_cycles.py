"""What happens to a machine in its life, in any order: it converges, and nothing accumulates."""

import collections
import random
import time
from collections.abc import Callable, Sequence

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.lab import soak

pytestmark = pytest.mark.soak

UNIT = "istio-hostagent.service"
CYCLES = soak.times(4, 50)
# Every process of ours and of the proxy's user, every file of ours, tables and shared memory.
_COUNT = """
ps -eo user,comm,args --no-headers | grep -E 'istio|envoy' |
    grep -vE 'grep|systemd|journal|/bin/sh' | awk '{print "process", $1, $2}'
find /run/istio-hostagent* /var/lib/istio-hostagent* /etc/certs /etc/istio-hostagent |
    sed -E 's/[0-9a-f]{6,}|[0-9]+|\\.\\.[^/]*_[^/]*/N/g' | awk '{print "file", $1}'
find /dev/shm -name '*envoy*' | awk '{print "shared memory"}'
nft list tables
ip -o address show | awk '{print "address", $2, $4}'
systemctl list-units --all --plain --no-legend '*istio*' | awk '{print "unit", $1, $3}'
"""

Act = Callable[[machines.Machine], object]


def start(machine: machines.Machine) -> None:
    machine.run("systemctl", "start", UNIT)


def stop(machine: machines.Machine) -> None:
    machine.run("systemctl", "stop", UNIT)


def kill(machine: machines.Machine) -> None:
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT, check=False)


def kill_proxy(machine: machines.Machine) -> None:
    machine.run("pkill", "-KILL", "-x", "envoy", check=False)


def restart(machine: machines.Machine) -> None:
    machine.run("systemctl", "restart", UNIT)


def reboot(machine: machines.Machine) -> None:
    machine.reboot()


def cut_power(machine: machines.Machine) -> None:
    machine.crash()
    machine.boot()


ACTS: tuple[Act, ...] = (start, stop, kill, kill_proxy, restart, reboot, cut_power)


def footprint(machine: machines.Machine) -> collections.Counter[str]:
    """What of us is on the machine, without numbers that differ each time."""
    return collections.Counter(machine.run("sh", "-c", _COUNT).stdout.splitlines())


def is_still(machine: machines.Machine) -> bool:
    """Whether a second passes in which nothing is begun or ended."""
    seen = footprint(machine)
    time.sleep(1)
    return seen == footprint(machine)


def settle(
    machine: machines.Machine, before: collections.Counter[str], done: Sequence[str]
) -> None:
    """Return once there is what there was; a worker that runs is there for a moment."""
    try:
        network.wait_until(lambda: footprint(machine) == before, "as before")
    except network.Timeout as error:
        now = footprint(machine)
        text = f"after {done[-8:]}: more {now - before}, less {before - now}"
        raise AssertionError(text) from error


def test_any_order_of_events_converges_and_leaves_nothing_behind(
    machine: machines.Machine,
    peer: machines.Machine,
    ca: mesh.Authority,
    record_property: Callable[[str, object], None],
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    mesh.join(machine, ca)
    # What a restart leaves of the start before it, such as a published status, is there then.
    restart(machine)
    mesh.wait_joined(machine)
    done: list[str] = []
    # A question to the proxy that is under way is not to be waited for later.
    network.wait_until(lambda: is_still(machine), "nothing is under way")
    before = footprint(machine)
    for _ in range(CYCLES):
        for act in dice.choices(ACTS, k=dice.randint(1, 3)):
            done.append(act.__name__)
            act(machine)
        start(machine)
        mesh.wait_joined(machine, within_s=60)
        # A proxy that was killed a moment ago is not missed yet.
        network.wait_until(
            lambda: mesh.ask(machine, peer.address).status == 0, f"served after {done[-8:]}"
        )
        settle(machine, before, done)
    stop(machine)
    network.wait_until(lambda: mesh.table_names(machine) == [], "no table is left")
    record_property(
        soak.FIGURE, f"{machine.suite}: {len(done)} events, the same as before after each"
    )
