"""The components that the composition root made, and what is known of this host from them."""

import logging
from collections.abc import Sequence

from ..config import model
from ..host import ports, processes, rtmonitor
from ..lifecycle import report
from ..lifecycle.life import Life
from ..lifecycle.situation import Now, Situation
from ..supervise import validation
from . import (
    certificate,
    configuration,
    events,
    fields,
    holding,
    lookout,
    machine,
    part,
    places,
    prober,
    proxy,
    redirection,
    serving,
    statedir,
    supervisor,
    takeover,
    tasks,
)

logger = logging.getLogger(__name__)


class Components:
    """Everything that the loop brings forward. Only the loop and the performer assign `life`."""

    def __init__(
        self, given: ports.Ports, sources: places.Sources, facts: model.HostFacts
    ) -> None:
        """Make all parts of one agent on these ports, and let what the kernel tells reach them.

        `facts`: what this machine is at the start; the files lie at `sources`.
        """
        inbox, clock = given.inbox, given.clock
        work = tasks.Tasks(inbox, clock, given.processes, _log_last_words)
        packets = prober.Prober(work, clock, given.packets)
        others = takeover.Takeover(work, given.istio_rules)
        keeper = redirection.RedirectionPart(
            given.rules,
            packets,
            clock,
            given.legacy_rules,
            lambda: not self.proxy.is_envoy,
            others,
        )
        state = statedir.StateDirectory(given.state, clock)
        user = processes.User(facts.proxy_uid, facts.proxy_gid)
        supervised = supervisor.Supervisor(inbox, clock, given.processes, given.doors, given.held)

        def read_changes() -> events.Event | None:
            found = given.changes.read()
            return events.KernelChanged(found) if keeper.notice(found) else None

        def read_network() -> events.Event | None:
            change = given.network.read()
            return events.MachineChanged(change) if change != rtmonitor.Change(0) else None

        inbox.watch(given.changes.fileno(), read_changes)
        inbox.watch(given.network.fileno(), read_network)
        self.inbox = inbox
        self.clock = clock
        self.rules = given.rules
        self.watcher = given.watcher
        self.notifier = given.notifier
        self.host = given.machine
        self.lookout = lookout.Lookout(
            inbox,
            work,
            given.sights,
            user,
            clock,
            is_urgent=lambda: self.certificate.value.failures > 0,
        )
        self.work = work
        self.packets = packets
        self.others = others
        self.state = state
        self.machine = machine.MachinePart(given.machine, facts, state, clock)
        self.configuration = configuration.ConfigurationPart(
            given.environment, sources, facts, work, clock
        )
        self.certificate = certificate.CertificatePart(
            work, clock, given.certificates, given.jitter, facts
        )
        self.redirection = keeper
        self.holding = holding.HoldingPart(given.held, given.notifier, work, clock)
        self.proxy = proxy.ProxyPart(supervised, work, clock, given.proxy)
        self.serving = serving.ServingPart(
            work,
            clock,
            self.proxy,
            lambda: self.certificate.value.held,
            given.held.find_listening,
            user,
        )
        # Who hears of everything, in this order: what is seen of the machine counts first.
        self.all: tuple[part.Part, ...] = (
            self.work,
            self.packets,
            self.machine,
            self.configuration,
            self.certificate,
            self.holding,
            self.redirection,
            supervised,
            self.proxy,
            self.serving,
            self.lookout,
            self.state,
        )
        self.life = Life()
        # The longest turn of the loop so far, in seconds, by the event that began it.
        self.turns: dict[str, float] = {}

    def now(self) -> Now:
        """This moment on both clocks."""
        return Now(self.clock.monotonic(), self.clock.now())

    def situation(self) -> Situation:
        """What is known of the parts now, as the value that decides."""
        accepted = self.life.disk.accepted
        return Situation(
            redirection=self.redirection.value,
            holding=self.holding.value,
            rotation=self.certificate.value,
            child=self.proxy.child.child,
            serving=self.serving.value,
            validation=self.proxy.validation,
            has_program=self.proxy.binary is not None,
            is_outdated=self.proxy.is_outdated,
            # Asked only where it decides: it renders a bootstrap.
            is_new_build=accepted is not None
            and self.proxy.validation.check is validation.Check.BAD
            and self.proxy.would_differ(configuration.config_of(accepted)),
            is_owner=self.rules.is_owner,
        )

    @property
    def reporting(self) -> dict[str, part.Part]:
        """The parts that the report of `status` is made of, by name."""
        return {
            "configuration": self.configuration,
            "redirection": self.redirection,
            "capture_ports": self.holding,
            "certificate": self.certificate,
            "proxy": self.proxy,
            "served_certificate": self.serving,
        }

    def report(self) -> report.Report:
        """What is known now, in words."""
        life, held = self.life, self.certificate.value.held
        away = self.proxy.control_plane.away_since
        attempt = life.attempt.last_error
        # While nothing is known of the files the other parts wait for them, and say nothing.
        is_blank = life.in_force is None and not life.offer.is_read
        obstacles = (
            self.holding.obstacle(life),
            self.redirection.obstacle(life),
            self.state.obstacle(life),
            self.proxy.obstacle(life),
            self.serving.obstacle(life),
            self.certificate.obstacle(life),
            f"the last attempt to join failed: {attempt}" if attempt else "",
        )
        texts = report.Texts(
            obstacles=(self.configuration.obstacle(life), *(() if is_blank else obstacles)),
            identity=held.identity if held is not None else "",
            held_until=fields.moment(held.not_after) if held is not None else "",
            proxy_name=self.proxy.kind.value,
            remark=self.redirection.remark,
            control_plane_away_since=fields.moment(away) if away is not None else "",
        )
        return report.describe(self.life, self.situation(), self.now(), texts)


def _log_last_words(name: str, lines: Sequence[str]) -> None:
    """Write down what is not in the message of a task that has failed, which has the last line."""
    for line in lines[:-1]:
        logger.info("%s: %s", name, line)
