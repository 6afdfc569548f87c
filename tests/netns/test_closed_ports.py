"""Joining opens nothing that the firewall of the host has closed, unless the operator says so.

The part of the agent that keeps the rules, on a real kernel, with a real neighbour; firewalld as it
comes, which lets in every connection that somebody has translated.
"""

import contextlib
from collections.abc import Iterator

import pytest

from istio_hostagent.config.model import Redirection
from tests.netns.keeper import Keeper
from tests.netns.rig import HOST_V4, HOST_V6, Rig
from tests.netns.test_arrivals import FIREWALLD, called, strict
from tests.unit.samples import ports

KEEPING = Redirection(inbound=ports(8080, 8081), keeps_closed=True)
OPEN = FIREWALLD.replace("tcp dport 22 accept", "tcp dport { 22, 8080 } accept")


@pytest.fixture(autouse=True)
def _clean(site: Rig) -> Iterator[None]:
    yield
    site.nft("flush", "ruleset")
    site.clean()


@pytest.fixture
def keeper(site: Rig) -> Iterator[Keeper]:
    with site.kernel() as kernel, contextlib.closing(Keeper(site, kernel)) as made:
        yield made


PLACES = ((HOST_V4, 8080), (HOST_V6, 8080), (HOST_V4, 8081))


def test_what_the_firewall_closes_stays_closed_until_it_is_opened_there(
    site: Rig, keeper: Keeper
) -> None:
    site.nft(text=FIREWALLD)
    before = called(site, PLACES)
    keeper.settle(KEEPING)
    assert called(site, PLACES) == before
    assert not {"host", "inbound"} & set(before)
    assert keeper.part.value.is_open
    assert keeper.part.remark.startswith("not captured: ports 8080, 8081, which rule handle ")
    assert "of chain inet firewalld filter_IN_public" in keeper.part.remark
    # Whoever opens it there has said so.
    site.nft("delete", "table", "inet", "firewalld")
    site.nft(text=OPEN)
    keeper.settle(KEEPING)
    assert called(site, PLACES) == ["inbound", "inbound", before[2]]
    assert keeper.part.remark.startswith("not captured: port 8081, which ")
    # And whoever closes it again is heard, too.
    site.nft("delete", "table", "inet", "firewalld")
    site.nft(text=FIREWALLD)
    keeper.settle(KEEPING)
    assert called(site, PLACES) == before


def test_an_operator_may_say_that_it_is_to_be_captured(site: Rig, keeper: Keeper) -> None:
    site.nft(text=FIREWALLD)
    keeper.settle(KEEPING._replace(keeps_closed=False))
    assert called(site, PLACES) == ["inbound"] * 3
    assert keeper.part.remark.startswith("capture opens ports 8080, 8081, which rule handle ")


def test_what_is_closed_with_and_without_capture_needs_no_word(site: Rig, keeper: Keeper) -> None:
    site.nft(text=strict("tcp dport 22 accept"))
    keeper.settle(KEEPING)
    assert keeper.part.remark == ""
    assert keeper.part.value.is_open


def test_a_port_that_is_open_is_captured(site: Rig, keeper: Keeper) -> None:
    keeper.settle(KEEPING)
    assert called(site, PLACES) == ["inbound"] * 3
    assert keeper.part.remark == ""
