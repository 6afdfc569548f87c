"""The redirection part by itself: what packets say of ports that the host's firewall closes."""

import logging
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, cast

import pytest

from istio_hostagent.agent import events, openings, prober, reconcile, redirection, takeover
from istio_hostagent.config import model
from istio_hostagent.redirect import expectations
from istio_hostagent.redirect.expectations import Fate
from tests.agent.texts import CONFIGS, FACTS
from tests.fakes.clock import FakeClock
from tests.fakes.kernel import FakeKernel
from tests.fakes.openings import FakeOpenings


class Prober:
    """Packets whose outcomes the test tells when it wants to."""

    def __init__(self) -> None:
        self.made: Sequence[expectations.Expectation] = ()

    def prove(
        self,
        made: Sequence[expectations.Expectation],
        _facts: model.HostFacts,
        done: prober.Done,
    ) -> None:
        self.made, self._done = made, done

    def answer(self, *, captured: Fate = Fate.ARRIVED, direct: Fate = Fate.ARRIVED) -> None:
        """What becomes of frames from a neighbour; nothing else can be sent."""
        self._done(tuple(_outcome(each, captured, direct) for each in self.made))


def _outcome(made: expectations.Expectation, captured: Fate, direct: Fate) -> expectations.Outcome:
    if made.sender is not expectations.Sender.ON_LINK:
        return expectations.Outcome(errno=101)
    arrival = expectations.Arrival(captured, direct, "10.1.0.9", "eth0")
    port = made.captured_at or made.port
    return expectations.Outcome(made.destination, port, arrival=arrival)


class Keeper:
    """A redirection part with rules in, and packets under way."""

    def __init__(
        self, settings: model.Redirection | None = None, *, answers_queries: bool = True
    ) -> None:
        self.packets = Prober()
        rules = reconcile.Reconciler(FakeKernel())
        packets = cast("Any", self.packets)
        others = takeover.Takeover(cast("Any", None), lambda: ())
        firewall = openings.Openings(cast("Any", None), FakeOpenings())
        self.part = redirection.RedirectionPart(
            rules,
            packets,
            FakeClock(),
            lambda: None,
            lambda: answers_queries,
            lambda: (),
            others,
            firewall,
        )
        config = CONFIGS["A"]
        self.part.configure(config._replace(redirection=settings or config.redirection), FACTS)
        self.prove()

    def prove(self) -> None:
        self.part.apply()
        self.part.prove()


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


def test_an_address_that_comes_while_packets_are_under_way_is_not_forgotten(
    keeper: Keeper,
) -> None:
    both = FACTS._replace(addresses=(*FACTS.addresses, ip_address("192.0.2.77")))
    keeper.part.handle(events.MachineSeen(both, moves_packets=False))
    keeper.packets.answer(direct=Fate.DROPPED)
    keeper.prove()
    assert "192.0.2.77" in {each.destination for each in keeper.packets.made}


def test_a_port_that_the_firewall_opens_is_not_called_closed(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keeper.packets.answer(direct=Fate.DROPPED)
    assert "ports that the firewall of this host closes are not captured" in caplog.messages
    keeper.prove()
    caplog.clear()
    keeper.packets.answer()
    assert "ports that the firewall of this host closes are not captured" not in caplog.messages
    assert (
        "the firewall of this host closes none of the ports; all are captured" in caplog.messages
    )


def test_a_firewall_that_drops_all_that_could_be_sent_is_what_is_wrong(keeper: Keeper) -> None:
    keeper.packets.answer(captured=Fate.DROPPED)
    assert keeper.part.value.is_shut
    assert "no route" not in keeper.part.value.last_error
    assert "port 8080 of 10.1.0.2 is not reached" in keeper.part.value.last_error


def test_a_closed_port_is_named_beside_queries_that_nobody_answers() -> None:
    dns = model.Dns(is_captured=True)
    settings = CONFIGS["A"].redirection._replace(dns=dns)
    keeper = Keeper(settings, answers_queries=False)
    keeper.packets.answer(direct=Fate.DROPPED)
    queries, _, closed = keeper.part.remark.partition("; ")
    assert (
        queries == "queries for names are not captured: Envoy without a control plane answers none"
    )
    assert closed.startswith("not captured: port")
