"""Metrics, checks and the journal on a machine as apt and systemd make it."""

from tests.booted import cluster as network
from tests.booted import machine as machines

SOCKET, SERVICE = "istio-hostagent-metrics.socket", "istio-hostagent-metrics.service"
URL = "http://127.0.0.1:15029/metrics"
# Status of curl where nobody listens.
REFUSED = 7


def test_what_an_operator_opens_is_served_by_a_user_without_rights(
    machine: machines.Machine,
) -> None:
    assert machine.run("curl", "-sS", URL, check=False).returncode == REFUSED
    machine.run("systemctl", "enable", "--now", SOCKET)
    page = machine.run("curl", "-sS", URL).stdout
    assert "\nistio_hostagent_up 1\n" in page
    assert "\nistio_hostagent_in_mesh 0\n" in page
    assert 'istio_hostagent_cause{part="configuration",code="config-missing"} 1' in page
    pid = machine.unit(SERVICE, "MainPID")["MainPID"]
    assert machine.run("ps", "-o", "uid=", "-p", pid).stdout.strip() not in ("0", "")
    machine.run("systemctl", "stop", "istio-hostagent")
    assert "\nistio_hostagent_up 0\n" in machine.run("curl", "-sS", URL).stdout


def test_any_user_may_check_and_the_journal_finds_errors_by_name(
    machine: machines.Machine,
) -> None:
    words = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "istio-hostagent")
    checked = machine.run(*words, "status", "--check", "in-mesh", check=False)
    assert checked.returncode == 2
    assert checked.stdout.startswith("MESH CRITICAL - not in the mesh: waiting for ")
    unit = ("journalctl", "-q", "-o", "cat", "-u", "istio-hostagent")
    network.wait_until(
        lambda: "not in the mesh: waiting for "
        in machine.run(*unit, "ISTIO_HOSTAGENT_CODE=config-missing", check=False).stdout,
        "it is found",
    )
