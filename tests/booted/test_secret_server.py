"""The secret server as shipped: started by its socket, ended by itself, gone with the agent."""

from subprocess import CompletedProcess

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh

SOCKET, SERVICE = "istio-hostagent-secrets.socket", "istio-hostagent-secrets.service"
PATH = "/run/istio-hostagent/secrets.sock"
KEY = f"ISTIO_HOSTAGENT_SECRET_SOCKET={PATH}\n"
SERIAL = "import json,sys; print(json.load(sys.stdin)['certificate']['serial'])"
ADMIN = "/run/istio-hostagent/*.proxy/admin/envoy.sock"
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(10)
    client.connect(sys.argv[1])
    print(len(client.recv(9)))
"""


@pytest.fixture
def joined(machine: machines.Machine, ca: mesh.Authority) -> machines.Machine:
    """A machine whose Envoy takes its secrets from the server."""
    mesh.provision(machine, ca)
    text = machine.run("cat", mesh.HOSTAGENT_ENV).stdout
    machine.write(mesh.HOSTAGENT_ENV, text + KEY)
    machine.run("istio-hostagent", "reload")
    mesh.wait_joined(machine)
    return machine


def state(machine: machines.Machine, unit: str) -> str:
    return machine.unit(unit, "ActiveState")["ActiveState"]


def is_shown(machine: machines.Machine) -> bool:
    """Whether Envoy shows the certificate that the agent holds."""
    held = machine.run("sh", "-c", f'istio-hostagent status --json | python3 -c "{SERIAL}"').stdout
    certs = f"curl -sS --unix-socket {ADMIN} http://envoy/certs"
    shown = machine.run("sh", "-c", certs).stdout.lower()
    return bool(held.strip()) and held.strip().lower() in shown


def ask(machine: machines.Machine, user: str, path: str = PATH) -> CompletedProcess[str]:
    switch = ["setpriv", "--reuid", user, "--clear-groups"] if user != "root" else []
    return machine.run(*switch, "python3", "-c", ASK, path, check=False)


def test_secrets_are_served_to_the_proxy_renewed_and_by_the_next_server_too(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    assert state(joined, SERVICE) == "active"
    assert mesh.ask(joined, peer.address).status == 0
    assert is_shown(joined)
    joined.run("istio-hostagent", "renew")
    network.wait_until(lambda: is_shown(joined), "the renewed certificate is shown")
    pid = joined.unit(SERVICE, "MainPID")["MainPID"]
    joined.run("kill", "-KILL", pid)
    joined.run("istio-hostagent", "renew")
    network.wait_until(lambda: is_shown(joined), "it is, by another server")
    assert joined.unit(SERVICE, "MainPID")["MainPID"] != pid
    assert mesh.ask(joined, peer.address).status == 0
    log = joined.journal(SERVICE)
    assert "PRIVATE" not in log
    assert "refuses" not in log


def test_it_takes_little_memory(joined: machines.Machine) -> None:
    """Beside the agent, as always: both share the interpreter."""
    pid = joined.unit(SERVICE, "MainPID")["MainPID"]
    rollup = joined.run("cat", f"/proc/{pid}/smaps_rollup").stdout
    (pss,) = (line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
    assert int(pss) < 12_000


def test_an_upgrade_of_the_package_replaces_it(
    joined: machines.Machine, peer: machines.Machine
) -> None:
    before = joined.unit(SERVICE, "MainPID")
    joined.run("apt-get", "-q", "-y", "install", "--reinstall", "istio-hostagent")
    mesh.wait_joined(joined)
    network.wait_until(lambda: state(joined, SERVICE) == "active", "Envoy is back")
    assert joined.unit(SERVICE, "MainPID") != before
    joined.run("istio-hostagent", "renew")
    network.wait_until(lambda: is_shown(joined), "the renewed certificate is shown")
    assert mesh.ask(joined, peer.address).status == 0


def test_a_restart_of_the_agent_leaves_the_server_alone(joined: machines.Machine) -> None:
    before = joined.unit(SERVICE, "MainPID")
    joined.run("systemctl", "restart", "istio-hostagent")
    mesh.wait_joined(joined)
    assert state(joined, SOCKET) == "active"
    assert joined.unit(SERVICE, "MainPID") == before


def test_it_starts_by_need_for_root_and_the_proxy_alone_and_ends_by_itself(
    machine: machines.Machine,
) -> None:
    assert (state(machine, SOCKET), state(machine, SERVICE)) == ("active", "inactive")
    assert machine.run("stat", "-c", "%U %a", PATH).stdout == "istio-proxy 600\n"
    assert "PermissionError" in ask(machine, "nobody").stderr
    assert state(machine, SERVICE) == "inactive"
    # By Istio's own name for the socket, too.
    istios = "/var/run/secrets/workload-spiffe-uds/socket"
    assert ask(machine, "istio-proxy", istios).stdout == "9\n"
    assert ask(machine, "root").stdout == "9\n"
    machine.run("chmod", "666", PATH)
    assert ask(machine, "nobody").stdout == "0\n"
    network.wait_until(lambda: state(machine, SERVICE) == "inactive", "it has ended", within_s=60)
    assert machine.unit(SERVICE, "Result")["Result"] == "success"
    assert ask(machine, "istio-proxy").stdout == "9\n"


def test_a_stop_of_the_agent_ends_the_socket_and_a_start_brings_it_back(
    joined: machines.Machine,
) -> None:
    joined.run("systemctl", "stop", "istio-hostagent")
    network.wait_until(lambda: state(joined, SOCKET) == "inactive", "the socket is gone")
    assert not joined.exists(PATH)
    joined.run("systemctl", "start", "istio-hostagent")
    mesh.wait_joined(joined)
    assert state(joined, SERVICE) == "active"


def test_a_socket_of_somebody_else_keeps_istios_name(machine: machines.Machine) -> None:
    machine.run("systemctl", "stop", "istio-hostagent")
    network.wait_until(lambda: state(machine, SOCKET) == "inactive", "the socket is gone")
    other = "/run/secrets/workload-spiffe-uds/socket"
    machine.run("rm", "-f", other)
    machine.run("python3", "-c", f"import socket; socket.socket(socket.AF_UNIX).bind({other!r})")
    machine.run("systemctl", "start", "istio-hostagent")
    assert state(machine, SOCKET) == "active"
    assert machine.run("stat", "-c", "%F", other).stdout == "socket\n"
