"""The part of the agent that keeps the rules, on a real kernel, brought forward by hand."""

from typing import Any

from istio_hostagent.agent import openings, prober, reconcile, redirection, takeover, tasks
from istio_hostagent.config.model import Redirection
from istio_hostagent.host import children, clock, mailbox, probing
from istio_hostagent.host import openings as present
from istio_hostagent.lifecycle.redirection import Rules
from istio_hostagent.lifecycle.steps import Step
from tests.agent import texts
from tests.netns.rig import FACTS, Rig


class Keeper:
    """The part, its packets and its kernel."""

    def __init__(self, rig: Rig, kernel: Any) -> None:
        self._rig = rig
        self._inbox: mailbox.Mailbox[Any] = mailbox.Mailbox()
        self._clock = clock.SystemClock()
        processes = children.Processes(self._inbox, record="")
        self._work = tasks.Tasks(self._inbox, self._clock, processes)
        self._prober = prober.Prober(self._work, self._clock, probing.Packets())
        rules = reconcile.Reconciler(kernel)
        others = takeover.Takeover(self._work, lambda: ())
        firewall = openings.Openings(self._work, present)
        self.part = redirection.RedirectionPart(
            rules,
            self._prober,
            self._clock,
            lambda: None,
            lambda: True,
            lambda: (),
            others,
            firewall,
        )

    def settle(self, settings: Redirection) -> None:
        """Install and prove until nothing more is to be done."""
        self._rig.host.inside(lambda: self._settle(settings))

    def _settle(self, settings: Redirection) -> None:
        config = texts.CONFIGS["A"]._replace(redirection=settings)
        self.part.configure(config, FACTS)
        while True:
            if not self._is_in():
                self.part.apply()
                assert self._is_in(), self.part.last_error
            self.part.prove()
            while self.part.value.is_proving:
                for event in self._inbox.wait(0.01):
                    self._work.ended(event.name)
                self._prober.tick()
            if self._is_in():
                return

    def withdraw(self) -> None:
        """Take everything out."""
        self._rig.host.inside(self.part.steps[Step.WITHDRAW])

    def _is_in(self) -> bool:
        return self.part.value.rules is not Rules.OUT

    def close(self) -> None:
        self._prober.close()
