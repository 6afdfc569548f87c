"""What is promised of packet rules: by those that are kept at once, and by those kept later."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from istio_hostagent.agent import events, reconcile
from istio_hostagent.errors import ApplyRejected
from istio_hostagent.host import ports
from istio_hostagent.redirect import model, policy
from tests.contract.test_kernel import Inside
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox
from tests.fakes.kernel import FakeNamespace
from tests.fakes.rules import NEVER, FakeRules
from tests.lab import layers, netns
from tests.unit.samples import ALL, FACTS, STANDARD

DESIRED = policy.build_ruleset(STANDARD, FACTS)
OTHER = policy.build_ruleset(ALL, FACTS)
NONE = model.Ruleset()


class Host(NamedTuple):
    """Packet rules, a way to wait until something is true of them, and a stranger."""

    rules: ports.PacketRules
    until: Callable[[Callable[[], object]], None]
    flush: Callable[[], object]


class RulesContract:
    def ask(self, host: Host, method: Callable[..., None], desired: model.Ruleset) -> Any:
        """Ask, and wait for the one answer."""
        found: list[Any] = []
        method(desired, found.append)
        host.until(lambda: found)
        (answer,) = found
        return answer

    def test_what_is_installed_is_there_and_said(self, host: Host) -> None:
        rules = host.rules
        assert self.ask(host, rules.compare, DESIRED)
        planned = self.ask(host, rules.plan, DESIRED)
        installed = self.ask(host, rules.install, DESIRED)
        assert planned.is_any and installed.is_any
        assert list(planned.lines) == list(installed.lines) != []
        assert self.ask(host, rules.compare, DESIRED) == ()

    def test_what_is_there_is_not_installed_again(self, host: Host) -> None:
        self.ask(host, host.rules.install, DESIRED)
        for method in (host.rules.plan, host.rules.install):
            found = self.ask(host, method, DESIRED)
            assert (found.is_any, list(found.lines)) == (False, [])

    def test_one_set_of_rules_is_replaced_by_another(self, host: Host) -> None:
        self.ask(host, host.rules.install, DESIRED)
        assert self.ask(host, host.rules.compare, OTHER)
        assert self.ask(host, host.rules.install, OTHER).is_any
        assert self.ask(host, host.rules.compare, OTHER) == ()

    def test_nothing_desired_takes_everything_out(self, host: Host) -> None:
        self.ask(host, host.rules.install, DESIRED)
        assert self.ask(host, host.rules.install, NONE).is_any
        assert self.ask(host, host.rules.compare, NONE) == ()
        assert host.rules.observe_addresses(DESIRED.loopback_addresses) == ()

    def test_what_somebody_takes_out_is_missed_and_put_back(self, host: Host) -> None:
        self.ask(host, host.rules.install, DESIRED)
        host.flush()
        assert self.ask(host, host.rules.compare, DESIRED)
        assert self.ask(host, host.rules.install, DESIRED).is_any
        assert self.ask(host, host.rules.compare, DESIRED) == ()

    def test_what_is_given_up_is_not_answered_and_can_be_asked_again(self, host: Host) -> None:
        found: list[Any] = []
        host.rules.install(DESIRED, found.append)
        before = len(found)  # who answers at once has done so
        host.rules.abandon()
        assert self.ask(host, host.rules.install, OTHER).is_any
        assert self.ask(host, host.rules.compare, OTHER) == ()
        assert len(found) == before

    def test_two_may_look_at_once(self, host: Host) -> None:
        first: list[Any] = []
        host.rules.compare(NONE, first.append)
        assert self.ask(host, host.rules.compare, NONE) == ()
        host.until(lambda: first)
        assert first == [()]


class TestAtOnceInMemory(RulesContract):
    @pytest.fixture
    def host(self) -> Host:
        space = FakeNamespace()
        return Host(reconcile.Reconciler(space.kernel()), _is_true, space.flush)


@pytest.mark.netns
class TestAtOnce(RulesContract):
    @pytest.fixture
    def host(self) -> Iterator[Host]:
        layers.require_namespaces()
        with netns.Namespace("rules") as space:
            kernel = Inside(space, is_owner=False)
            yield Host(
                reconcile.Reconciler(kernel),
                _is_true,
                lambda: space.run(["nft", "flush", "ruleset"], check=True),
            )
            kernel.close()


def _is_true(condition: Callable[[], object]) -> None:
    assert condition()


class Later:
    """Fake rules that are answered when time passes."""

    def __init__(self) -> None:
        self.space, clock = FakeNamespace(), FakeClock()
        self._inbox = FakeInbox(clock)
        self.delays = (0.5, 0.5)
        self.rules = FakeRules(self.space.kernel(), self._inbox, clock, lambda: self.delays)

    def wait(self, seconds: float) -> None:
        for event in self._inbox.wait(seconds):
            assert isinstance(event, events.RulesAnswered)
            event.take()

    def until(self, condition: Callable[[], object]) -> None:
        for _ in range(10):
            if condition():
                return
            self.wait(10.0)
        raise AssertionError("no answer")


class TestLater(RulesContract):
    @pytest.fixture
    def host(self) -> Host:
        made = Later()
        return Host(made.rules, made.until, made.space.flush)


@pytest.mark.parametrize("delays", [(NEVER, NEVER), (0.5, NEVER)], ids=["nothing done", "done"])
def test_a_fake_that_never_answers_takes_the_next_question(delays: tuple[float, float]) -> None:
    made, found = Later(), list[Any]()
    made.delays = delays
    made.rules.install(DESIRED, found.append)
    made.wait(100.0)
    assert not found
    assert bool(made.space.tables) == (delays[0] < NEVER)
    made.rules.abandon()
    made.delays = (0.5, 0.5)
    made.rules.install(NONE, found.append)
    made.until(lambda: found)
    assert not made.space.tables


def test_a_fake_says_later_that_the_kernel_refused() -> None:
    made, found = Later(), list[Any]()
    made.space.refusals.append(ApplyRejected("no", step="create table", errno=22))
    made.rules.install(DESIRED, found.append)
    assert not found
    made.until(lambda: found)
    assert isinstance(found[0], ApplyRejected)
