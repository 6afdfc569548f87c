"""Beside firewalls and other programs that change a host's network: in the mesh, or said why not.

After each step a peer's request is answered through the proxy and `verify` agrees, or `status`
names the reason. The table of all steps is printed at the end of the run. Every run takes the
programs up to their reloads; with HOSTAGENT_SOAK=1 they are stopped, started behind us, and the
machine is booted as well.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.booted import cluster as network
from tests.booted import coexistence, conftest, mesh
from tests.booted import machine as machines
from tests.booted.coexistence import Cell, Step, Tool
from tests.lab import soak

KEY = "ISTIO_HOSTAGENT_FIREWALL=open\n"
WITHIN_S = 20.0
REPORT = "start, not opened"
STOP, COMMAND = "stop", "the command that is named"
RESTART = Step("restart of the agent", "systemctl restart istio-hostagent")


class Host:
    """A machine beside one program, and the cells that it has made."""

    def __init__(self, machine: machines.Machine, peer: machines.Machine, tool: Tool) -> None:
        self.machine = machine
        self.cells: list[Cell] = []
        self._peer = peer
        self._tool = tool

    def do(self, name: str, command: str) -> None:
        """Run a command of the program's, and see what the host is then."""
        self.machine.run("sh", "-euc", command)
        self.look(name)

    def look(self, name: str) -> None:
        begun = time.monotonic()
        expected = (
            "let it in: " if name == REPORT else self._tool.named * (name not in (STOP, COMMAND))
        )
        while True:
            status = self._status()
            is_proven = status["in_mesh"] and self._is_answered()
            seconds = time.monotonic() - begun
            if expected and expected in status["summary"]:
                break
            if is_proven or seconds > WITHIN_S:
                break
            time.sleep(0.1)
        cell = (self.machine.suite, self._tool.name, name, is_proven)
        self.cells.append(Cell(*cell, "" if is_proven else status["summary"], seconds))
        assert not (is_proven and name == REPORT), f"{self._tool.name} lets it in"
        if not is_proven:
            assert not status["in_mesh"], f"after {name}: {status}"
            assert status["summary"].startswith(("degraded: ", "not in the mesh: ")), status
            assert expected and expected in status["summary"], f"after {name}: {status}"

    def _status(self) -> dict[str, Any]:
        found = self.machine.run("istio-hostagent", "status", "--json", check=False)
        status: dict[str, Any] = json.loads(found.stdout)
        return status

    def _is_answered(self) -> bool:
        verified = self.machine.run("istio-hostagent", "verify", check=False)
        answer = mesh.ask(self._peer, self.machine.address)
        return verified.returncode == 0 and answer.status == 0 and answer.secret in answer.body


@pytest.fixture
def host(
    request: pytest.FixtureRequest,
    start: conftest.Start,
    suite: str,
    beside: conftest.Disks,
    peer: machines.Machine,
    record_property: Callable[[str, object], None],
) -> Iterator[Host]:
    """A machine with the program of this test set up, and not started."""
    tool: Tool = request.getfixturevalue("tool")
    machine = start(suite, "beside", layers=beside(suite))
    for path, text in tool.files:
        machine.write(path, text.format(address=machine.address) if "{address}" in text else text)
    machine.run("sh", "-euc", tool.setup)
    mesh.serve(machine)
    made = Host(machine, peer, tool)
    yield made
    record_property(coexistence.PROPERTY, [tuple(each) for each in made.cells])


@pytest.mark.soak
@pytest.mark.parametrize("tool", coexistence.TOOLS, ids=lambda tool: tool.name)
def test_beside_it_a_host_is_in_the_mesh_or_says_why_not(
    host: Host, ca: mesh.Authority, tool: Tool, suite: str
) -> None:
    machine = host.machine
    if suite not in tool.suites:
        return  # its release knows no such thing
    machine.run("sh", "-euc", tool.start)
    mesh.provision(machine, ca)
    if tool.is_strict:
        host.look(REPORT)
        machine.write(mesh.HOSTAGENT_ENV, machine.read(mesh.HOSTAGENT_ENV) + KEY)
    host.look("start, then we")
    for step in tool.steps:
        host.do(*step)
    if soak.IS_SOAKING:
        host.do(*RESTART)
        host.do(STOP, tool.stop)
        host.do("start behind us", tool.start)
        if tool.enable:
            machine.run("sh", "-euc", tool.enable)
            machine.reboot()
            host.look("boot")
    if tool.named:
        _, _, command = host.cells[-1].reason.partition("let it in: ")
        host.do(COMMAND, command)


def test_what_was_opened_is_closed_when_the_host_leaves(
    start: conftest.Start, suite: str, beside: conftest.Disks, ca: mesh.Authority
) -> None:
    tool = next(each for each in coexistence.TOOLS if each.name == "nftables")
    machine = start(suite, "beside", layers=beside(suite))
    for path, text in tool.files:
        machine.write(path, text)
    machine.run("sh", "-euc", tool.start)
    before = machine.run("nft", "list", "ruleset").stdout
    mesh.provision(machine, ca)
    machine.write(mesh.HOSTAGENT_ENV, machine.read(mesh.HOSTAGENT_ENV) + KEY)
    mesh.wait_joined(machine)
    assert "jump istio-hostagent" in machine.run("nft", "list", "ruleset").stdout
    machine.run("systemctl", "stop", "istio-hostagent")
    network.wait_until(
        lambda: machine.run("nft", "list", "ruleset").stdout == before, "nothing is left"
    )
