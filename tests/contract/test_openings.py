"""What of ours is in firewalls, as the agent asks for it: on a kernel, and in memory."""

from collections.abc import Iterator
from typing import Protocol

import pytest

from istio_hostagent.host import openings
from tests.fakes.openings import FakeOpenings
from tests.lab import netns

RULES = """
table inet filter {
    chain istio-hostagent { ct status dnat accept
    }
    chain input {
        type filter hook input priority filter; policy drop;
        tcp dport 15006 ct original proto-dst 8080 jump istio-hostagent
        tcp dport 8080 accept comment "istio-hostagent"
        tcp dport 8081 log prefix "istio-hostagent" accept
    }
}
table ip other {
    chain istio-hostagent { ct status dnat accept
    }
}
"""


class Place(Protocol):
    """Where there is something, or not."""

    def put(self) -> None: ...
    def is_any(self) -> bool: ...
    def take_out(self) -> bool: ...


class _InMemory(FakeOpenings):
    def put(self) -> None:
        self.is_there = True


class _InKernel:
    def __init__(self, space: netns.Namespace) -> None:
        self._space = space

    def put(self) -> None:
        self._space.run(["nft", "-f", "-"], stdin=RULES, check=True)

    def is_any(self) -> bool:
        return self._space.inside(openings.is_any)

    def take_out(self) -> bool:
        return self._space.inside(openings.take_out)


@pytest.fixture(params=["memory", pytest.param("kernel", marks=pytest.mark.netns)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        yield _InMemory()
        return
    with netns.Namespace("openings") as space:
        yield _InKernel(space)


def test_what_is_there_is_found_and_taken_out_once(place: Place) -> None:
    assert not place.is_any()
    assert not place.take_out()
    place.put()
    assert place.is_any()
    assert place.take_out()
    assert not place.is_any()
    assert not place.take_out()


@pytest.mark.netns
def test_nothing_else_goes() -> None:
    with netns.Namespace("openings") as space:
        place = _InKernel(space)
        place.put()
        place.take_out()
        listing = space.run(["nft", "list", "ruleset"], check=True).stdout
    assert "tcp dport 8080 accept" in listing
    assert 'log prefix "istio-hostagent" accept' in listing
    assert "table ip other" in listing
    assert "15006" not in listing
    assert "chain istio-hostagent" not in listing


@pytest.mark.netns
def test_a_chain_that_somebody_holds_stays_empty_and_keeps_no_other_table_from_it() -> None:
    held = """
table inet filter {
    map ports { type inet_service : verdict; elements = { 80 : jump istio-hostagent }
    }
}
"""
    with netns.Namespace("openings") as space:
        place = _InKernel(space)
        place.put()
        space.run(["nft", "-f", "-"], stdin=held, check=True)
        assert place.take_out()
        listing = space.run(["nft", "list", "ruleset"], check=True).stdout
    assert "15006" not in listing
    assert "ct status dnat accept" not in listing
    assert listing.count("chain istio-hostagent") == 1
