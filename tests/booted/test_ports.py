"""An ordinary user who wants a capture port, on a machine with a real service manager."""

import signal

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.lab import thief

UNIT = "istio-hostagent.service"
LOG = "/var/tmp/thief.log"
ADDRESSES = "0.0.0.0,127.0.0.1,::,::1"


def test_he_never_gets_one_of_a_machine_that_has_joined(
    machine: machines.Machine, peer: machines.Machine, ca: mesh.Authority
) -> None:
    mesh.join(machine, ca)
    _begin(machine)
    for act in (
        ("systemctl", "restart", UNIT),
        ("systemctl", "kill", "-s", "KILL", UNIT),
        ("systemctl", "daemon-reexec"),
        ("pkill", "-KILL", "-x", "envoy"),
        ("systemctl", "restart", UNIT),
    ):
        before = _starts(machine)
        machine.run(*act)
        # Until the agent is gone, or has seen that the proxy is, it is in the mesh as before.
        network.wait_until(
            lambda: act[1] == "daemon-reexec" or _starts(machine) > before,  # noqa: B023
            f"what {act} ends is started again",
        )
        mesh.wait_joined(machine)
        assert _said(machine, "has") == [], act
        assert mesh.ask(machine, peer.address).status == 0
    machine.run("systemctl", "stop", UNIT)
    network.wait_until(lambda: _said(machine, "has") != [], "what nobody holds is anybody's")
    assert _said(machine, "got") == []


def _starts(machine: machines.Machine) -> int:
    """How often the agent and the proxy were started; the machine writes it down."""
    lines = machine.run("journalctl", "-qu", UNIT, "-o", "cat").stdout.splitlines()
    begun = f"Starting {UNIT}", "proxy started"
    return sum(line.startswith(begun) for line in lines)


def test_he_who_had_it_before_is_named_although_the_agent_may_look_into_nobody(
    machine: machines.Machine, ca: mesh.Authority
) -> None:
    _begin(machine)
    network.wait_until(lambda: _said(machine, "has") != [], "he has it")
    mesh.provision(machine, ca)

    def summary() -> str:
        return machine.run("istio-hostagent", "status", check=False).stdout

    pid = machine.unit("thief.service", "MainPID")["MainPID"]
    who = f"port 15001 is taken by python3 (pid {pid}) of user nobody"
    network.wait_until(lambda: who in summary(), "he is named")
    assert "istio_hostagent" not in mesh.table_names(machine)
    machine.run("systemctl", "kill", "-s", str(int(signal.SIGKILL)), "thief.service")
    mesh.wait_joined(machine, within_s=60)
    assert _said(machine, "got") == []


def _begin(machine: machines.Machine) -> None:
    machine.write("/opt/thief.py", thief.SCRIPT)
    machine.run("install", "-o", "nobody", "/dev/null", LOG)
    words = ("/usr/bin/python3", "/opt/thief.py", "15001,15006", ADDRESSES)
    unit = ("--unit=thief", "--uid=nobody", f"--property=StandardOutput=append:{LOG}")
    machine.run("systemd-run", "--quiet", *unit, *words)
    network.wait_until(lambda: _said(machine, "ready") != [], "he has begun")


def _said(machine: machines.Machine, word: str) -> list[str]:
    return [line for line in machine.read(LOG).splitlines() if line.split(" ")[0] == word]
