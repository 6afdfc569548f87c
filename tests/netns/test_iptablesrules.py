"""A table of iptables-nft is changed while somebody else changes it, on a real kernel."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.errors import HostAgentError
from istio_hostagent.host import firewallprograms, iptablesrules
from istio_hostagent.host.nfnetlink import connection
from istio_hostagent.redirect import openings
from tests.lab import netns

PORT = openings.Port(15006, ((8080, 8080), (9000, 9000)))
REAL = "/usr/sbin/iptables-nft"
BAN = "-I INPUT -s 192.0.2.1 -j DROP"
ACCEPTS = ("-p tcp -m tcp --dport 22 -j ACCEPT", "-p tcp -m tcp --dport 8080 -j ACCEPT")


@pytest.fixture
def space() -> Iterator[netns.Namespace]:
    with netns.Namespace("iptables") as made:
        for words in ACCEPTS:
            made.run([REAL, *f"-A INPUT {words}".split()], check=True)
        yield made


def rules(space: netns.Namespace) -> list[str]:
    lines = space.run([REAL, "-S", "INPUT"], check=True).stdout.splitlines()
    return [line.removeprefix("-A INPUT ") for line in lines if line.startswith("-A")]


def arrange(meanwhile: str = "", *, captured: bool = True) -> str:
    """Make the chain right, as a worker does; others do something after it was read."""
    link = connection.Connection()
    with contextlib.closing(link.socket):
        table = iptablesrules.Iptables(link, "ip", "filter")
        port = PORT if captured else PORT._replace(captured=())
        changes = openings.arrange(table.read(port)["INPUT"])
        if meanwhile:
            firewallprograms.run((REAL, *meanwhile.split()))
        try:
            table.apply({"INPUT": changes}, is_needed=captured)
        except HostAgentError as error:
            return error.text
    return ""


def test_a_rule_that_somebody_inserts_meanwhile_costs_no_other_its_place(
    space: netns.Namespace,
) -> None:
    assert space.inside(arrange) == ""
    assert "istio-hostagent" in rules(space)[1]
    # What is read is no longer so: nothing is deleted, until the next time.
    assert "somebody else" in space.inside(lambda: arrange(BAN, captured=False))
    assert [each for each in rules(space) if "istio-hostagent" not in each][1:] == list(ACCEPTS)
    assert space.inside(lambda: arrange(captured=False)) == ""
    assert rules(space)[1:] == list(ACCEPTS)


def test_a_rule_of_ours_stands_directly_in_front_whoever_inserts_meanwhile(
    space: netns.Namespace,
) -> None:
    assert space.inside(lambda: arrange(BAN)) == ""
    assert "istio-hostagent" in rules(space)[2]
    assert rules(space)[3] == ACCEPTS[1]


@pytest.mark.parametrize("other", [BAN, "-D INPUT -p tcp -m tcp --dport 8080 -j ACCEPT"])
def test_a_rule_of_ours_that_comes_elsewhere_is_taken_out_again(
    space: netns.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Somebody is quicker than the program that has been started."""
    program = tmp_path / "iptables-nft"
    program.write_text(f'#!/bin/sh\nexec {REAL} "$@"\n')
    restore = tmp_path / "iptables-nft-restore"
    restore.write_text(f'#!/bin/sh\n{REAL} {other}\nexec {REAL}-restore "$@"\n')
    for each in (program, restore):
        each.chmod(each.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setitem(firewallprograms.IPTABLES, "ip", str(program))
    assert "at the same moment" in space.inside(arrange)
    assert not [each for each in rules(space) if "istio-hostagent" in each]
