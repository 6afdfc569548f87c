"""What runs by night on many hosts: unattended-upgrades and needrestart, as Debian ships them."""

from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import conftest, load, mesh, versions
from tests.booted import machine as machines
from tests.booted.conftest import Disks, Start
from tests.booted.test_proxy_unit import AGENT, proxy_of
from tests.lab import facts
from tests.package import repository

PROGRAMS = ("unattended-upgrades", "needrestart")
LATER = "9.0"
ORIGIN = 'Unattended-Upgrade::Origins-Pattern { "origin=istio-hostagent-tests"; };\n'
# As dpkg does it with another version: whoever has the old one in use has a file that is gone.
REPLACE = 'for each in $(find /lib/ -path "*linux-gnu*" -name "libc.so.6"); do cp -p "$each" "$each.new"; mv "$each.new" "$each"; done'
# The application of the test is a program like any other; that it ends is no matter of ours.
SPARED = "$nrconf{override_rc}{qr(^echo\\.service$)} = 0;\n"

Pair = tuple[machines.Machine, machines.Machine]


@pytest.fixture
def pair(
    machine: machines.Machine,
    start: Start,
    installed: Disks,
    archive: repository.Repository,
    ca: mesh.Authority,
) -> Pair:
    """A machine in the mesh that is looked after by night, and a Debian 13 machine in the mesh."""
    extra = f"{machine.suite}-nightly"
    archive.publish(extra, repository.debian_packages(machine.suite, *PROGRAMS))
    conftest.add_source(machine, extra)
    machine.run("apt-get", "-q", "-y", "install", *PROGRAMS, within_s=conftest.LONG_S)
    machine.write("/etc/apt/apt.conf.d/90tests", ORIGIN)
    machine.write("/etc/needrestart/conf.d/tests.conf", SPARED)
    other = start("trixie", "other", layers=installed("trixie"))
    for each in (machine, other):
        load.serve(each)
        mesh.join(each, ca)
    return machine, other


def test_unattended_upgrades_upgrades_it_and_no_request_is_lost(
    pair: Pair,
    archive: repository.Repository,
    package: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine, other = pair
    proxy = proxy_of(machine)
    later = versions.repacked(package, tmp_path, LATER)
    extra = f"{machine.suite}-nightly"
    programs = repository.debian_packages(machine.suite, *PROGRAMS)
    archive.publish(extra, [*programs, later])
    machine.run("apt-get", "-q", "update")
    with load.between(machine, other) as found:
        done = machine.run("unattended-upgrade", "--verbose", within_s=conftest.LONG_S)
        mesh.wait_joined(machine)
    with capsys.disabled():
        print(f"\n{machine.suite}, unattended-upgrade: {found}")
    facts.never(sum(found.around), f"around the proxy: {found}")
    assert versions.state(machine) == ("installed", LATER), done.stdout
    assert found.failures == []
    assert proxy_of(machine) == proxy
    # What the administrator had in the configuration file is still there.
    assert "ISTIO_HOSTAGENT_MTLS=strict" in machine.read(mesh.HOSTAGENT_ENV)


def test_needrestart_restarts_the_agent_and_leaves_the_proxy_alone(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restart of the proxy would end every connection of this host."""
    machine, other = pair
    proxy, agent = proxy_of(machine), machine.unit(AGENT, "MainPID")["MainPID"]
    machine.run("sh", "-euc", REPLACE)
    listed = machine.run("needrestart", "-b", "-r", "l").stdout
    assert f"NEEDRESTART-SVC: {AGENT}" in listed, listed
    assert "NEEDRESTART-SVC: istio-proxy@0.service" in listed, listed
    with load.between(machine, other) as found:
        done = machine.run("needrestart", "-r", "a", within_s=conftest.LONG_S, check=False)
        mesh.wait_joined(machine)
    with capsys.disabled():
        print(f"\n{machine.suite}, needrestart: {found}")
    facts.never(sum(found.around), f"around the proxy: {found}")
    # An administrator sees it all the same, and chooses when.
    assert "systemctl restart istio-proxy@0.service" in done.stdout.partition("deferred")[2]
    assert found.failures == []
    assert proxy_of(machine) == proxy
    assert machine.unit(AGENT, "MainPID")["MainPID"] != agent
    network.wait_until(
        lambda: machine.run("istio-hostagent", "verify", check=False).returncode == 0, "proven"
    )
    # At the administrator's own time: it comes back by itself.
    machine.run("systemctl", "stop", "istio-proxy*@[01].service")
    network.wait_until(lambda: proxy_of(machine) not in ("0", proxy), "another proxy runs")
    mesh.wait_joined(machine)
    assert mesh.ask(machine, other.address).status == 0
