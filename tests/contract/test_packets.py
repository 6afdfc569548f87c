"""What is promised of probe packets, of real ones in a namespace and of those in memory.

Both are sent as the agent sends them, by its prober.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from istio_hostagent.agent import events, prober, tasks
from istio_hostagent.redirect import expectations, probes
from istio_hostagent.supervise import specs
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox
from tests.fakes.packets import FakePackets
from tests.fakes.processes import FakeChild, FakeProcesses, Plan
from tests.lab import layers, netns
from tests.netns import rig
from tests.unit.samples import STANDARD

Prove = Callable[[tuple[expectations.Expectation, ...]], prober.Outcomes]
FACTS = rig.FACTS._replace(has_ipv6=False)
MADE = probes.build_expectations(STANDARD, FACTS)


class PacketsContract:
    def test_where_there_are_no_rules_each_packet_goes_where_it_is_sent(
        self, prove: Prove
    ) -> None:
        assert [(each.address, each.port) for each in prove(MADE)] == [
            (each.destination, each.port) for each in MADE
        ]

    def test_another_proof_uses_the_sockets_again(self, prove: Prove) -> None:
        assert prove(MADE) == prove(MADE)
        few = MADE[:3]
        assert len(prove(few)) == len(few)

    def test_nothing_to_send_is_over_at_once(self, prove: Prove) -> None:
        assert prove(()) == ()


@pytest.mark.netns
class TestRealPackets(PacketsContract):
    @pytest.fixture
    def prove(self) -> Iterator[Prove]:
        layers.require_namespaces()
        with (
            netns.Network("wire", f"{rig.NEIGHBOUR_V4}/24") as wire,
            netns.Namespace("packets") as space,
        ):
            wire.join(space, f"{rig.HOST_V4}/24")
            space.ip("route", "add", "default", "via", rig.NEIGHBOUR_V4)
            packets = rig.Packets(space)
            yield packets.outcomes
            packets.close()


class _Behaviour:
    """Only the worker that makes sockets."""

    def worker(self, module: str, request: Any) -> Plan:
        errnos = b", ".join(b"0" for _ in range(len(request["groups"]) + 2))
        return Plan(0.01, lambda: (0, b'{"errnos": [' + errnos + b"]}"))

    def once(self, argv: Any) -> Plan:
        raise NotImplementedError

    def server(self, module: str, arguments: Any) -> Plan:
        raise NotImplementedError

    def program(self, child: FakeChild, spec: specs.ProcessSpec) -> Plan:
        raise NotImplementedError


class TestFakePackets(PacketsContract):
    @pytest.fixture
    def prove(self) -> Prove:
        clock = FakeClock()
        inbox = FakeInbox(clock)
        work = tasks.Tasks(inbox, clock, FakeProcesses(inbox, clock, _Behaviour()))
        packets = FakePackets(
            lambda expectation: expectations.Outcome(expectation.destination, expectation.port)
        )
        sender = prober.Prober(work, clock, packets)

        def prove(made: tuple[expectations.Expectation, ...]) -> prober.Outcomes:
            found: list[Any] = []
            sender.prove(made, FACTS, found.append)
            while not found:
                for event in inbox.wait(0.1):
                    assert isinstance(event, events.TaskEnded)
                    work.ended(event.name)
                sender.tick()
            outcomes: prober.Outcomes = found[0]
            return outcomes

        return prove
