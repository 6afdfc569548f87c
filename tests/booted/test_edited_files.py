"""A file in /etc that the administrator has edited: kept, asked about or replaced, as with dpkg(1)."""

from pathlib import Path

from tests.booted import cluster as network
from tests.booted import load, mesh, versions
from tests.booted import machine as machines
from tests.booted.conftest import Disks, Start
from tests.booted.test_proxy_unit import proxy_of
from tests.lab import facts

INSTALL = ("dpkg", "-i")
FILE = mesh.HOSTAGENT_ENV.lstrip("/")
TEXT = "# Said by another version.\n"


def test_an_edited_file_is_kept_asked_about_or_replaced(
    machine: machines.Machine,
    start: Start,
    installed: Disks,
    ca: mesh.Authority,
    package: Path,
    tmp_path: Path,
) -> None:
    other = start("trixie", "other", layers=installed("trixie"))
    for each in (machine, other):
        load.serve(each)
        mesh.join(each, ca)
    edited, proxy = machine.read(mesh.HOSTAGENT_ENV), proxy_of(machine)
    first, second = (
        versions.give(
            machine,
            versions.repacked(package, tmp_path, number, appended={FILE: f"{TEXT}# {number}\n"}),
        )
        for number in ("9.0", "9.1")
    )
    with load.between(machine, other) as found:
        # Nobody is there to answer: dpkg stops half-way, and the agent goes on.
        assert machine.run(*INSTALL, first, check=False).returncode != 0
        assert versions.state(machine)[0] != "installed"
        machine.run("dpkg", "--configure", "-a", "--force-confdef", "--force-confold")
        mesh.wait_joined(machine)
        assert versions.state(machine) == ("installed", "9.0")
        assert machine.read(mesh.HOSTAGENT_ENV) == edited
        assert TEXT in machine.read(f"{mesh.HOSTAGENT_ENV}.dpkg-dist")
    facts.never(sum(found.around), f"around the proxy: {found}")
    assert found.failures == []
    assert proxy_of(machine) == proxy

    # Asked for, the new one counts, and the agent takes it; and the one before, put back.
    machine.run(*INSTALL, "--force-confnew", second)
    assert TEXT in machine.read(mesh.HOSTAGENT_ENV)
    mesh.wait_joined(machine)
    network.wait_until(
        lambda: "plain text is accepted" in machine.run("istio-hostagent", "status").stdout,
        "the file of the package counts",
    )
    machine.run("mv", f"{mesh.HOSTAGENT_ENV}.dpkg-old", mesh.HOSTAGENT_ENV)
    machine.run("istio-hostagent", "reload")
    network.wait_until(
        lambda: "plain text is refused" in machine.run("istio-hostagent", "status").stdout,
        "the one before counts again",
    )
    assert mesh.ask(machine, other.address).status == 0
    machine.run("apt-get", "-q", "-y", "purge", "istio-hostagent")
    assert not machine.exists("/etc/istio-hostagent")
