"""Other versions of the package, as a machine meets them: made of the one that was built.

What differs besides the number is said by whoever makes one: files that are missing, names that every
module uses (so that half of one version and half of another is no program at all), a place in a
maintainer script where it waits, so that a test can end dpkg there.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.booted import machine as machines
from tests.package import overlay

NAME = "istio-hostagent"
# A name that nearly every module imports.
SHARED_NAME = ("HostAgentError", "HostAgentFault")
# Tells who waits, and for whom it works: both are processes to end.
HELD = "/run/held"
_HOLD = """
hold() {
    if [ -e "/run/hold-$1" ]; then
        echo "$$ $PPID" > /run/held.new
        mv /run/held.new /run/held
        exec sleep infinity
    fi
}
"""


def repacked(
    package: Path,
    target: Path,
    version: str,
    *,
    without: str = "",
    renamed: tuple[str, str] = ("", ""),
    appended: Mapping[str, str] | None = None,
    holding: tuple[str, ...] = (),
) -> Path:
    """Make the package again with another version; gives its path.

    `without`: files whose names match it are missing. `renamed`: a name in the program, and what
    it is called instead. `appended`: text for the end of a file. `holding`: maintainer scripts
    that wait at their beginning while /run/hold-NAME-begin is there, and at their end.
    """
    tree = target / f"tree-{version}"
    overlay.run_checked(["dpkg-deb", "-R", package, tree])
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    said = [f"Version: {version}" if each.startswith("Version:") else each for each in lines]
    control.write_text("\n".join(said) + "\n")
    (tree / "DEBIAN/md5sums").unlink(missing_ok=True)
    for path in tree.rglob(without) if without else ():
        path.unlink()
    for path in tree.rglob("*.py") if renamed[0] else ():
        path.write_text(path.read_text().replace(*renamed))
    for name, text in (appended or {}).items():
        path = tree / name.lstrip("/")
        path.write_text(path.read_text() + text)
    for name in holding:
        script = tree / "DEBIAN" / name
        script.write_text(held_script(script.read_text(), name))
    made = target / f"{version}.deb"
    overlay.run_checked(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made])
    return made


def held_script(text: str, name: str) -> str:
    """A maintainer script that waits at its beginning, or end, while a test wants that."""
    assert text.count("set -e\n") == 1
    assert text.rstrip().endswith("exit 0")
    begun = text.replace("set -e\n", f"set -e\n{_HOLD}hold {name}-begin\n")
    return begun.rstrip().removesuffix("exit 0") + f"hold {name}-end\nexit 0\n"


def give(machine: machines.Machine, package: Path) -> str:
    """Bring a package onto the disk of the machine; gives where it is there."""
    path = f"/opt/{package.name}"
    place = machine.command("sh", "-c", f"cat > {path}")
    subprocess.run(place, input=package.read_bytes(), check=True, timeout=60)
    return path


def install(machine: machines.Machine, package: Path) -> None:
    """Have dpkg install it, over whichever version there is."""
    machine.run("dpkg", "-i", "--force-confold", give(machine, package), within_s=300)


def state(machine: machines.Machine) -> tuple[str, str]:
    """What dpkg knows of the package: how far it got, and with which version."""
    show = ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", NAME)
    status, version = machine.run(*show).stdout.split()
    return status, version
