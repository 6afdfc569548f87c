"""Installing the package: apt returns, the agent is in control and says what it waits for."""

import re

from tests.booted import cluster as network
from tests.booted import conftest, mesh
from tests.booted import machine as machines

UNITS = (
    "istio-hostagent.service",
    "istio-redirect.service",
    "istio-hostagent-node-agent.service",
    "istio-hostagent-secrets.service",
    "istio-hostagent-metrics.service",
    "istio-proxy@0.service",
    "istio-proxy-transparent@0.service",
)
SOCKETS = ("istio-hostagent-secrets.socket", "istio-hostagent-metrics.socket")
# systemd-analyze security; the agent's workers that change the user have no units of their own.
WORST_EXPOSURES = dict(zip(UNITS, (3.2, 2.5, 1.5, 1.1, 1.6, 1.1, 1.5), strict=True))


def test_apt_returns_at_once_and_the_agent_says_what_it_waits_for(
    pristine: machines.Machine, cluster: network.Cluster
) -> None:
    before = mesh.network_state(pristine)
    pristine.run(*conftest.INSTALL, within_s=conftest.LONG_S)

    unit = pristine.unit(
        "istio-hostagent.service",
        *("ActiveState", "NRestarts", "UnitFileState"),
        *("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"),
    )
    assert unit["ActiveState"] == "active"
    assert unit["UnitFileState"] == "enabled"
    assert unit["NRestarts"] == "0"
    network.wait_until(
        lambda: mesh.CLUSTER_ENV in pristine.unit(UNITS[0], "StatusText")["StatusText"],
        "it says what it waits for",
    )
    began, ready = (
        int(unit[name])
        for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    )
    assert (ready - began) / 1e6 < 20, "apt had to wait for the agent"
    assert mesh.network_state(pristine) == before
    assert cluster.ssh(pristine.address, "true").returncode == 0


def test_the_recommended_proxy_and_the_proxy_user_are_there(untouched: machines.Machine) -> None:
    assert untouched.run("envoy", "--version").returncode == 0
    user = untouched.run("getent", "passwd", "istio-proxy").stdout
    assert user.split(":")[5] == "/var/lib/istio"
    for directory in ("/var/lib/istio/envoy", "/etc/certs"):
        owner = untouched.run("stat", "-c", "%U:%G %a", directory).stdout.strip()
        assert owner == "istio-proxy:istio-proxy 755"
    assert not untouched.run("ls", "-A", "/var/lib/istio/envoy").stdout


def test_a_machine_that_has_no_configuration_is_not_in_the_mesh(
    untouched: machines.Machine,
) -> None:
    status = untouched.run("istio-hostagent", "status", check=False)
    assert status.returncode != 0
    assert mesh.CLUSTER_ENV in status.stdout
    assert untouched.run("istio-hostagent", "wait", "--timeout", "1", check=False).returncode != 0


def test_files_that_root_made_before_the_installation_are_enough_to_join(
    provided: machines.Machine, ca: mesh.Authority
) -> None:
    """As write_files of cloud-init does it: every directory and file on the way is root's."""
    provided.write(mesh.ROOT_CERT, ca.root_certificate)
    provided.write(mesh.CLUSTER_ENV, mesh.cluster_env(ca, provided.name))
    provided.write(mesh.TOKEN, ca.token(provided.name), mode="0644")
    provided.run(*conftest.INSTALL)
    mesh.wait_joined(provided)
    assert provided.exists("/etc/certs/key.pem")


def test_the_old_names_work_and_stopping_the_node_agent_changes_nothing(
    machine: machines.Machine,
) -> None:
    assert machine.run("systemctl", "is-active", "istio.service").stdout.strip() == "active"
    before = machine.unit("istio-hostagent.service", "MainPID")
    machine.run("systemctl", "start", "istio-auth-node-agent")
    machine.run("systemctl", "stop", "istio-auth-node-agent")
    assert machine.unit("istio-hostagent.service", "MainPID") == before

    machine.run("systemctl", "stop", "istio.service")
    assert machine.unit("istio-hostagent.service", "ActiveState")["ActiveState"] == "inactive"
    machine.run("systemctl", "start", "istio-auth-node-agent")
    assert machine.unit("istio-hostagent.service", "ActiveState")["ActiveState"] == "active"


def test_systemd_finds_nothing_to_say_about_the_units(untouched: machines.Machine) -> None:
    # The image has no manual pages for it to look at.
    verified = untouched.run(
        "systemd-analyze", "verify", "--man=no", *UNITS, *SOCKETS, check=False
    )
    assert verified.stdout + verified.stderr == ""
    assert verified.returncode == 0


def test_the_sandbox_is_no_weaker_than_recorded(untouched: machines.Machine) -> None:
    for unit, worst in WORST_EXPOSURES.items():
        report = untouched.run("systemd-analyze", "security", "--no-pager", unit).stdout
        match = re.search(r"Overall exposure level for .*: ([\d.]+)", report)
        assert match is not None
        assert float(match[1]) <= worst, unit
