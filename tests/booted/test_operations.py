"""Every command of docs/operations.md, in its order, on a machine in the mesh."""

import re

from tests.booted import machine as machines
from tests.booted import mesh

DOCUMENT = mesh.SOURCE / "docs/operations.md"
THEIRS = "[Service]\nExecStart=/usr/bin/sleep infinity\n"
# Nothing was taken over on this machine; tests/booted/test_take_over.py finds the line.
MAY_FIND_NOTHING = "journalctl"


def commands() -> list[tuple[str, str]]:
    """Each command with what it is said to print, or nothing."""
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    parts = [part for block in blocks for part in block.split("# ") if part]
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


def test_the_commands_do_what_is_said(machine: machines.Machine, ca: mesh.Authority) -> None:
    machine.write("/lib/systemd/system/istio.service", THEIRS)
    mesh.join(machine, ca)
    found = commands()
    assert len(found) > 6
    for command, output in found:
        done = machine.run("sh", "-c", command, check=MAY_FIND_NOTHING not in command)
        assert output in done.stdout
        if "enable --now" in command:
            mesh.wait_joined(machine)
    assert machine.unit("istio.service", "Id", "ActiveState") == {
        "Id": "istio.service",
        "ActiveState": "active",
    }
