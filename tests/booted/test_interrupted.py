"""dpkg is killed, or the power fails: no request goes around, and installing again mends it.

The version that comes is another program, of which no module runs with one of the version before:
whatever is started between the two fails at once.
"""

from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import load, mesh, versions
from tests.booted import machine as machines
from tests.booted.conftest import Disks, Start
from tests.booted.test_proxy_unit import AGENT, kill, proxy_of
from tests.lab import facts
from tests.package import overlay

LATER = "9.0"
# How far the files have been put in place, of a hundred.
SHARES = (2, 50, 98)
SCRIPTS = ("prerm-begin", "postinst-begin", "postinst-end")

Pair = tuple[machines.Machine, machines.Machine]


@pytest.fixture
def pair(machine: machines.Machine, start: Start, installed: Disks, ca: mesh.Authority) -> Pair:
    """A machine in the mesh, and a Debian 13 machine that is, too."""
    other = start("trixie", "other", layers=installed("trixie"))
    for each in (machine, other):
        load.serve(each)
        mesh.join(each, ca)
    return machine, other


@pytest.fixture
def later(package: Path, tmp_path: Path) -> Path:
    return versions.repacked(
        package, tmp_path, LATER, renamed=versions.SHARED_NAME, holding=("postinst",)
    )


def kill_while_unpacking(machine: machines.Machine, package: Path, share: int) -> None:
    """Have dpkg install it, and kill dpkg at once when this share of its files is in place."""
    listing = overlay.run_checked(["dpkg-deb", "--contents", package]).splitlines()
    files = [line for line in listing if line.startswith("-")]
    number = len(files) * share // 100
    path = versions.give(machine, package)
    calls = "rename,renameat,renameat2"
    trace = [
        *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"),
        *("-e", f"inject={calls}:signal=KILL:when={number}"),
    ]
    with pytest.raises(overlay.CommandFailed):
        overlay.run_checked([*trace, *machine.command("dpkg", "-i", "--force-confold", path)])
    assert versions.state(machine)[0] == "half-installed"


def kill_in_script(machine: machines.Machine, package: Path, place: str) -> None:
    """Have dpkg install it, and kill it and its maintainer script at a place of that."""
    script = f"/var/lib/dpkg/info/{versions.NAME}.prerm"
    text = machine.read(script)
    if place.startswith("prerm"):
        machine.write(script, versions.held_script(text, "prerm"), mode="0755")
    machine.run("touch", f"/run/hold-{place}")
    path = versions.give(machine, package)
    running = overlay.Background(machine.command("dpkg", "-i", "--force-confold", path))
    network.wait_until(lambda: machine.exists(versions.HELD), f"dpkg is at {place}", within_s=60)
    machine.run("kill", "-KILL", *machine.read(versions.HELD).split()[::-1])
    with pytest.raises(overlay.CommandFailed):
        running.finish()
    machine.run("rm", versions.HELD, f"/run/hold-{place}")
    if place.startswith("prerm"):
        machine.write(script, text, mode="0755")


def mend(machine: machines.Machine, package: Path) -> None:
    """Do what apt tells people to do; and once more from the beginning where that is refused."""
    machine.run("dpkg", "--configure", "-a", "--force-confold", check=False, within_s=300)
    if versions.state(machine) != ("installed", LATER):
        versions.install(machine, package)
    assert versions.state(machine) == ("installed", LATER)
    assert not machine.run("dpkg", "--audit").stdout


def test_dpkg_is_killed_while_it_unpacks(
    pair: Pair, later: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invariants 2 and 4."""
    machine, other = pair
    proxy = proxy_of(machine)
    for share in SHARES:
        with load.between(machine, other) as found:
            kill_while_unpacking(machine, later, share)
            # The agent of before is killed as well: the next one has half of each version.
            kill(machine)
            mend(machine, later)
            mesh.wait_joined(machine, within_s=60)
        with capsys.disabled():
            print(f"\n{machine.suite}, dpkg killed at {share} %: {found}")
        facts.never(sum(found.around), f"around the proxy: {found}")
        assert found.failures == []
        assert proxy_of(machine) == proxy
        versions.install(machine, package)
        mesh.wait_joined(machine, within_s=60)


def test_dpkg_is_killed_in_a_maintainer_script(
    pair: Pair, later: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invariants 2 and 4."""
    machine, other = pair
    proxy = proxy_of(machine)
    for place in SCRIPTS:
        with load.between(machine, other) as found:
            kill_in_script(machine, later, place)
            assert versions.state(machine)[0] != "installed"
            mend(machine, later)
            mesh.wait_joined(machine, within_s=60)
        with capsys.disabled():
            print(f"\n{machine.suite}, dpkg killed at {place}: {found}")
        facts.never(sum(found.around), f"around the proxy: {found}")
        assert found.failures == []
        assert proxy_of(machine) == proxy
        versions.install(machine, package)
        mesh.wait_joined(machine, within_s=60)


def test_the_power_fails_while_dpkg_unpacks(pair: Pair, later: Path) -> None:
    """Half of each version boots closed; invariants 2 and 4."""
    machine, other = pair
    kill_while_unpacking(machine, later, 50)
    machine.crash()
    machine.boot()
    with mesh.wiretap(machine) as captured:
        answer = mesh.ask(machine, other.address)
    facts.never(answer.secret.encode() in captured.read_bytes(), "a plain request has left")
    assert mesh.table_names(machine), "the machine is open"
    mend(machine, later)
    mesh.wait_joined(machine, within_s=60)
    assert mesh.ask(machine, other.address).status == 0
    assert machine.unit(AGENT, "ActiveState")["ActiveState"] == "active"
