"""Packet rules over a packet filter in memory, as a worker would keep them: answered later."""

from collections.abc import Callable, Sequence
from typing import Any

from istio_hostagent.agent import events, reconcile
from istio_hostagent.config.model import BackEnd
from istio_hostagent.errors import HostAgentError, KernelBusy
from istio_hostagent.host import ports
from istio_hostagent.redirect import guard, model, plan
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox

NEVER = float("inf")
LOOK_TIME_S = 20.0


class FakeRules:
    """`delays` gives after how many seconds something is done, and how much later that is said.

    Both 0: before the method returns. NEVER is never; a look then ends with an error.
    """

    def __init__(
        self,
        kernel: ports.Kernel,
        inbox: FakeInbox,
        clock: FakeClock,
        delays: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    ) -> None:
        self._kernel = kernel
        self._at_once = reconcile.Reconciler(kernel)
        self._inbox = inbox
        self._clock = clock
        self._delays = delays
        self._installing: object = None  # what is not given up

    @property
    def is_owner(self) -> bool:
        return self._kernel.is_owner

    def fileno(self) -> int:
        return self._kernel.fileno()

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        return self._kernel.observe_addresses(addresses)

    def observe_routing(self) -> tuple[model.Routing, ...]:
        return self._kernel.observe_routing()

    has_socket = property(lambda self: self.is_owner)
    place = "memory"
    remark = ""
    is_polled = False

    def has_changed(self) -> bool:
        return False

    def choose(self, wanted: BackEnd) -> None:
        pass

    def render_guard(self, desired: model.Ruleset) -> str:
        return guard.render_guard(desired)

    def find_native(self, desired: model.Ruleset) -> model.Ruleset:
        return desired

    def install(
        self, desired: model.Ruleset, done: Callable[[plan.Changes | HostAgentError], None]
    ) -> None:
        assert self._installing is None, "one at a time"
        self._installing = asked = object()

        def end(found: plan.Changes | HostAgentError) -> None:
            self._installing = None
            done(found)

        self._later(
            lambda answer: self._at_once.install(desired, answer),
            end,
            lambda: self._installing is asked,
        )

    def abandon(self) -> None:
        self._installing = None

    def compare(
        self,
        desired: model.Ruleset,
        done: Callable[[tuple[model.Drift, ...] | HostAgentError], None],
    ) -> None:
        self._look(lambda answer: self._at_once.compare(desired, answer), done)

    def plan(
        self, desired: model.Ruleset, done: Callable[[plan.Changes | HostAgentError], None]
    ) -> None:
        self._look(lambda answer: self._at_once.plan(desired, answer), done)

    def _look(
        self, ask: Callable[[Callable[[Any], None]], None], done: Callable[[Any], None]
    ) -> None:
        if max(self._delays()) < NEVER:
            self._later(ask, done)
            return
        error = KernelBusy("the worker of the rules was given up")
        event = events.RulesAnswered(lambda: done(error))
        self._clock.later(LOOK_TIME_S, lambda: self._inbox.post(event))

    def _later(
        self,
        ask: Callable[[Callable[[Any], None]], None],
        done: Callable[[Any], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        act_s, answer_s = self._delays()
        if act_s == answer_s == 0.0:
            ask(done)
            return

        def answered(found: Any) -> None:
            def take() -> None:
                if is_wanted():
                    done(found)

            if answer_s < NEVER:
                event = events.RulesAnswered(take)
                self._clock.later(answer_s, lambda: self._inbox.post(event))

        def act() -> None:
            if is_wanted():
                ask(answered)

        if act_s < NEVER:
            self._clock.later(act_s, act)
