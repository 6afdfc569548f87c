"""The components that the composition root made, and what is known of this host from them."""

import logging
from collections.abc import Sequence

from ..config import model
from ..host import ports, processes, rtmonitor
from ..lifecycle import report
from ..lifecycle.life import Life
from ..lifecycle.situation import Now, Situation
from ..supervise import builds, validation
from . import (
    answering,
    catalogue,
    causes,
    certificate,
    configuration,
    events,
    fields,
    holding,
    leaving,
    lookout,
    machine,
    openings,
    outputs,
    ownserver,
    part,
    places,
    predecessor,
    prober,
    proxy,
    recent,
    redirection,
    registration,
    renewhook,
    serving,
    statedir,
    succession,
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
            lambda: self.proxy.answers_queries,
            lambda: self.catalogue.destinations,
            others,
            openings.Openings(work, given.openings),
        )
        state = statedir.StateDirectory(given.state, clock)
        user = processes.User(facts.proxy_uid, facts.proxy_gid)
        successors = succession.Succession(work)
        supervised = supervisor.Supervisor(
            inbox, clock, given.processes, given.doors, given.held, successors
        )

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
        self._place, self._state_dir = given.proxy.directory, facts.state_dir
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
        self.machine = machine.MachinePart(
            given.machine, given.groups, facts, state, clock, lambda: supervised.starts
        )
        self.configuration = configuration.ConfigurationPart(
            given.environment, sources, facts, work, clock
        )
        self.certificate = certificate.CertificatePart(
            work, clock, given.certificates, given.jitter, facts
        )
        self.outputs = outputs.OutputsPart(work, clock, self.certificate, state, facts)
        self.hook = renewhook.HookPart(work, clock, self.certificate, self.outputs, state, facts)
        self.catalogue = catalogue.CataloguePart(work, clock, state, facts)
        self.registration = registration.RegistrationPart(
            work, clock, state, facts, self._find_standing
        )
        self.redirection = keeper
        self.predecessor = predecessor.PredecessorPart(
            given.predecessors, work, clock, given.rules
        )
        self.holding = holding.HoldingPart(given.held, given.notifier, work, clock)
        self.proxy = proxy.ProxyPart(supervised, work, clock, given.proxy, successors)
        self.serving = serving.ServingPart(
            work,
            clock,
            self.proxy,
            lambda: self.certificate.value,
            self.certificate.find_root_file,
            given.held.find_listening,
            user,
        )
        secrets = ownserver.Server(
            "secrets",
            "secret server",
            self._find_secrets,
            lambda: given.proxy.make_own_directory(builds.SECRETS_DIRECTORY),
        )
        names = ownserver.Server(
            "resolver",
            "resolver",
            lambda: self.proxy.resolver,
            lambda: given.state.make_own(places.NAMES, (user.uid, user.gid)),
            is_known=lambda: self.proxy.is_known,
            may_have_unit=lambda: self.proxy.has_unit,
        )
        self.secrets, self.names = (
            ownserver.OwnServerPart(inbox, clock, given.processes, user, each)
            for each in (secrets, names)
        )
        self.answering = answering.AnsweringPart(
            work, clock, self.names, lambda: self.proxy.wants_resolver, user
        )
        self.leaving = leaving.LeavingPart(
            given.unit,
            work,
            clock,
            given.notifier,
            self.proxy,
            user,
            given.rules,
            on_drain=lambda: self.registration.leave(),
        )
        # Who hears of everything, in this order: what is seen of the machine counts first.
        self.all: tuple[part.Part, ...] = (
            self.work,
            self.packets,
            self.machine,
            self.configuration,
            self.certificate,
            self.outputs,
            self.hook,
            self.holding,
            self.catalogue,
            self.predecessor,
            self.redirection,
            supervised,
            self.proxy,
            self.serving,
            self.secrets,
            self.names,
            self.answering,
            self.registration,
            self.leaving,
            self.lookout,
            self.state,
        )
        self.life = Life()
        self.count_captured = given.captured
        self.recent = recent.Recent(clock)
        self.started = self.since = clock.now()  # the agent; being in the mesh, or not being
        self.was_in_mesh = False
        # The longest turn of the loop so far, in seconds, by the event that began it.
        self.turns: dict[str, float] = {}

    def _find_secrets(self) -> tuple[str, ...] | None:
        """Arguments of a secret server, once the proxy asks one of ours for what there is."""
        own = builds.secrets_socket(self._place)
        if own not in self.proxy.secret_sockets or self.certificate.value.held is None:
            return None
        return f"{self._state_dir}/certs/current", own

    def now(self) -> Now:
        """This moment on both clocks."""
        return Now(self.clock.monotonic(), self.clock.now())

    def situation(self) -> Situation:
        """What is known of the parts now, as the value that decides."""
        accepted, candidate = self.life.disk.accepted, self.life.rollout.candidate
        return Situation(
            redirection=self.redirection.value,
            holding=self.holding.value,
            predecessor=self.predecessor.value,
            rotation=self.certificate.value,
            child=self.proxy.child.child,
            serving=self.serving.value,
            validation=self.proxy.validation,
            has_program=self.proxy.binary is not None,
            is_outdated=self.proxy.is_outdated,
            is_upgrade=self.proxy.is_upgrade,
            is_elsewhere=self.proxy.is_elsewhere,
            must_wait=candidate is not None
            and self.proxy.must_wait(configuration.config_of(candidate)),
            # Asked only where it decides: it renders a bootstrap.
            is_new_build=accepted is not None
            and self.proxy.validation.check is validation.Check.BAD
            and self.proxy.would_differ(configuration.config_of(accepted)),
            must_show=self.proxy.must_show,
            is_answering=self.answering.is_answering,
            answer_error=self.answering.last_error,
            is_owner=self.rules.is_owner,
        )

    @property
    def reporting(self) -> dict[str, part.Part]:
        """The parts that the report of `status` is made of, by name."""
        return {
            "configuration": self.configuration,
            "redirection": self.redirection,
            "capture_ports": self.holding,
            "predecessor": self.predecessor,
            "certificate": self.certificate,
            "proxy": self.proxy,
            "served_certificate": self.serving,
            "secret_server": self.secrets,
            "resolver": self.answering,
            "outputs": self.outputs,
            "renew_hook": self.hook,
            "registration": self.registration,
            "catalogue": self.catalogue,
        }

    def _find_standing(self) -> registration.Standing:
        # Not `is_in_mesh`: while another certificate is waited for, what serves goes on.
        is_whole = self.life.is_joined and self.situation().is_whole(self.now())
        return registration.Standing(self.life.is_joined, is_whole)

    def obstacles(self) -> tuple[causes.Cause, ...]:
        """What is wrong or waits for a person, in the order in which joining needs it."""
        life = self.life
        found = causes.of_part("configuration", self.configuration, life)
        if life.in_force is None and not life.offer.is_read:
            return found  # while nothing is known of the files the other parts wait for them
        for name, each in (
            ("leaving", self.leaving),
            ("predecessor", self.predecessor),
            ("capture_ports", self.holding),
            ("redirection", self.redirection),
            ("state", self.state),
            ("proxy", self.proxy),
            ("served_certificate", self.serving),
            ("secret_server", self.secrets),
            ("resolver", self.answering),
            ("certificate", self.certificate),
        ):
            found += causes.of_part(name, each, life)
        if attempt := life.attempt.last_error:
            text = f"the last attempt to join failed: {attempt}"
            found += (causes.Cause("attempt", "join-failed", text),)
        return found

    def report(self) -> report.Report:
        """What is known now, in words."""
        held = self.certificate.value.held
        away = self.proxy.control_plane.away_since
        texts = report.Texts(
            obstacles=tuple(each.text for each in self.obstacles()),
            identity=held.identity if held is not None else "",
            held_until=fields.moment(held.not_after) if held is not None else "",
            proxy_name=self.proxy.kind.value,
            remark=self.redirection.remark,
            control_plane_away_since=fields.moment(away) if away is not None else "",
            control_plane_reason=self.proxy.control_plane.reason,
        )
        return report.describe(self.life, self.situation(), self.now(), texts)


def _log_last_words(name: str, lines: Sequence[str]) -> None:
    """Write down what is not in the message of a task that has failed, which has the last line."""
    for line in lines[:-1]:
        logger.info("%s: %s", name, line)
