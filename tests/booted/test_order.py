"""Programs that are ordered by the mesh, and programs that are ordered by nothing at all."""

import collections
import json
from collections.abc import Callable

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.lab import facts, soak

TARGET, WAIT = "istio-mesh-ready.target", "istio-mesh-ready.service"
MARKER = "/var/lib/istio-hostagent/joined"
REQUESTS = 400
BOOTS = soak.times(1, 20)


def order(machine: machines.Machine) -> None:
    """A program that starts once the machine is in the mesh, and notes whether it is."""
    machine.write(
        "/etc/systemd/system/program.service",
        f"[Unit]\nWants={TARGET}\nAfter={TARGET}\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=-/bin/sh -c 'istio-hostagent wait --timeout 5; echo $$? > /var/lib/noted'\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    machine.run("systemctl", "enable", "--quiet", "program.service")


def is_active(machine: machines.Machine, unit: str) -> bool:
    return machine.run("systemctl", "is-active", unit, check=False).returncode == 0


def test_a_program_is_started_once_the_machine_is_in_the_mesh(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    mesh.join(machine, ca)
    order(machine)
    machine.reboot()
    network.wait_until(lambda: machine.exists("/var/lib/noted"), "the program")
    assert machine.read("/var/lib/noted") == "0\n"
    assert is_active(machine, TARGET)
    machine.run("systemctl", "restart", "istio-hostagent")
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "istio-hostagent")
    mesh.wait_joined(machine)
    assert is_active(machine, TARGET)
    machine.run("systemctl", "stop", "istio-hostagent")
    network.wait_until(lambda: not is_active(machine, TARGET), "it has left")


def test_no_boot_waits_for_a_mesh_that_does_not_come(machine: machines.Machine) -> None:
    order(machine)
    machine.write(f"/etc/systemd/system/{WAIT}.d/t.conf", "[Service]\nEnvironment=TIMEOUT=2\n")
    machine.reboot()
    network.wait_until(lambda: machine.exists("/var/lib/noted"), "the program", within_s=60)
    assert machine.read("/var/lib/noted") == "75\n"
    assert machine.unit(WAIT, "ActiveState")["ActiveState"] == "failed"


# In its first millisecond, and from then on: nothing orders it, and the network is up before it.
_EARLY = """\
import socket, time
out = open("/var/lib/early", "w", buffering=1)
for _ in range(%d):
    with socket.socket() as line:
        line.settimeout(0.05)
        try:
            line.connect(("%s", %d))
            line.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            out.write("answered\\n" if b"200 OK" in line.recv(4096) else "captured\\n")
        except OSError as error:
            out.write(f"{type(error).__name__}\\n")
    time.sleep(0.001)
"""


@pytest.fixture
def early(
    machine: machines.Machine, peer: machines.Machine, ca: mesh.Authority
) -> machines.Machine:
    """A machine that has joined, and at whose boot a program asks without waiting for anything."""
    mesh.join(machine, ca)
    machine.write("/opt/early.py", _EARLY % (REQUESTS, peer.address, mesh.PLAIN_PORT))
    machine.write(
        "/etc/systemd/system/early.service",
        "[Unit]\nDefaultDependencies=no\n"
        "[Service]\nUser=nobody\nExecStart=/usr/bin/python3 -IS /opt/early.py\n"
        "[Install]\nWantedBy=sysinit.target\n",
    )
    machine.run("systemctl", "enable", "--quiet", "early.service")
    return machine


def asked(machine: machines.Machine) -> list[str]:
    return machine.read("/var/lib/early").split()


@pytest.mark.soak
def test_nothing_gets_out_before_the_first_unit(
    early: machines.Machine,
    peer: machines.Machine,
    record_property: Callable[[str, object], None],
) -> None:
    kinds: collections.Counter[str] = collections.Counter()
    for number in range(BOOTS):
        early.run("install", "-o", "nobody", "/dev/null", "/var/lib/early")
        if number % 2:
            early.crash()
            early.boot()
        else:
            early.reboot()
        network.wait_until(lambda: len(asked(early)) == REQUESTS, "the program has ended")
        facts.never("answered" in asked(early), "a plain request was answered")
        assert asked(early)[0] == "ConnectionRefusedError"
        kinds.update(asked(early))
        mesh.wait_joined(early)
        assert mesh.ask(early, peer.address).status == 0
    figure = f"{early.suite}, {BOOTS} boots, every other one after a power cut: {dict(kinds)}"
    record_property(soak.FIGURE, figure)


def test_what_the_generator_has_loaded_is_loaded_once(
    early: machines.Machine, peer: machines.Machine
) -> None:
    """Whatever replaces a table with sets opens it for a moment: its handle would be another."""
    early.reboot()
    mesh.wait_joined(early)
    load = "nft -f /var/lib/istio-hostagent/guard.nft && nft -j list tables"
    once = guard_handle(early.run("unshare", "--net", "sh", "-c", load).stdout)
    assert guard_handle(early.run("nft", "-j", "list", "tables").stdout) == once


def guard_handle(listing: str) -> int:
    """The number that the kernel gave the guard's table, from `nft -j list tables`: it counts them."""
    tables = (each["table"] for each in json.loads(listing)["nftables"] if "table" in each)
    (handle,) = (int(table["handle"]) for table in tables if table["name"] == "istio_guard")
    return handle


def test_the_generator_loads_no_guard_where_nobody_would_take_it_out(
    early: machines.Machine, peer: machines.Machine
) -> None:
    early.run("systemctl", "disable", "--quiet", "istio-hostagent")
    early.reboot()
    assert early.exists(MARKER)
    assert mesh.table_names(early) == []
    early.run("systemctl", "enable", "--quiet", "--now", "istio-hostagent")
    mesh.wait_joined(early)


def test_a_daemon_reload_loads_no_guard(early: machines.Machine, peer: machines.Machine) -> None:
    """As in rescue mode, where the network is the operator's."""
    early.run("systemctl", "isolate", "--no-block", "rescue.target")
    network.wait_until(lambda: not mesh.table_names(early), "the rules are out")
    network.wait_until(lambda: is_active(early, "rescue.target"), "rescue mode")
    early.run("systemctl", "daemon-reload")
    assert mesh.table_names(early) == []
    assert early.exists(MARKER)
