"""The names by which Istio's guides call its units, with and without Istio's own package."""

import pytest

from tests.booted import conftest, mesh
from tests.booted import machine as machines

NAMES = {
    "istio.service": "istio-hostagent.service",
    "istio-auth-node-agent.service": "istio-hostagent-node-agent.service",
}
THEIRS = "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"


def ids(machine: machines.Machine) -> dict[str, str]:
    return {name: machine.unit(name, "Id")["Id"] for name in NAMES}


def is_active(machine: machines.Machine, unit: str = "istio") -> bool:
    return machine.run("systemctl", "is-active", unit, check=False).returncode == 0


def test_disable_and_enable_by_the_name_of_the_guides(machine: machines.Machine) -> None:
    assert ids(machine) == NAMES
    machine.run("systemctl", "disable", "--now", "istio")
    assert not is_active(machine)
    assert not machine.run("find", "/etc/systemd", "-lname", "*istio*").stdout
    machine.reboot()
    assert not is_active(machine)
    machine.run("systemctl", "enable", "--now", "istio")
    assert is_active(machine)
    machine.reboot()
    assert is_active(machine, "istio-hostagent")
    assert is_active(machine)


def test_units_of_istios_own_package_are_hidden_and_come_back(
    provided: machines.Machine,
) -> None:
    """Its files stay as they are, and so does what starts it at boot."""
    for name in NAMES:
        provided.write(f"/lib/systemd/system/{name}", THEIRS)
    provided.run("systemctl", "daemon-reload")
    provided.run("systemctl", "enable", "--quiet", "istio")
    provided.run(*conftest.INSTALL)
    assert ids(provided) == NAMES
    provided.run("systemctl", "disable", "--now", "istio")
    provided.reboot()
    assert not is_active(provided)
    assert not is_active(provided, "istio-hostagent")

    provided.run("apt-get", "-q", "-y", "remove", "istio-hostagent")
    assert ids(provided) == {name: name for name in NAMES}
    assert provided.read("/lib/systemd/system/istio.service") == THEIRS
    assert provided.run("systemctl", "is-enabled", "istio").stdout.strip() == "enabled"
    provided.run("systemctl", "start", "istio")
    assert provided.unit("istio.service", "MainPID")["MainPID"] != "0"


@pytest.mark.parametrize("text", [THEIRS, ""], ids=["a unit of the administrator's", "a mask"])
def test_a_name_that_is_taken_is_named_and_the_agent_works_without_it(
    provided: machines.Machine, ca: mesh.Authority, text: str
) -> None:
    if text:
        provided.write("/etc/systemd/system/istio.service", text)
    else:
        provided.run("systemctl", "mask", "--quiet", "istio.service")
    done = provided.run(*conftest.INSTALL)
    assert "/etc/systemd/system/istio.service is a unit of yours" in done.stdout + done.stderr
    assert provided.unit("istio.service", "Id")["Id"] == "istio.service"
    mesh.join(provided, ca)
    assert is_active(provided, "istio-hostagent")


def test_an_alias_of_an_earlier_version_goes_with_an_upgrade(machine: machines.Machine) -> None:
    link = "/etc/systemd/system/istio.service"
    machine.run("ln", "-s", "/usr/lib/systemd/system/istio-hostagent.service", link)
    machine.run(*conftest.INSTALL[:-1], "--reinstall", "istio-hostagent")
    assert not machine.exists(link)
    assert ids(machine) == NAMES
    machine.run("systemctl", "disable", "--now", "istio")
    machine.run("systemctl", "enable", "--now", "istio")
