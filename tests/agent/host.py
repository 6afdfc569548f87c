"""A host in memory, with the real agent on it: what the test changes, and what is true there.

Everything outlives the agent but its processes, sockets and timers. What the agent asks of the
machine is answered by `tests.fakes`; how CA, proxy, kernel and packets behave is set here. Before
each change that the agent makes of anything outside itself it may be killed (`kill_after`).
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from istio_hostagent.agent import app, events, loop, performer, places, reload
from istio_hostagent.errors import ApplyRejected, HostAgentError, KernelBusy
from istio_hostagent.host import capturecount, changes, ports, rtmonitor
from istio_hostagent.lifecycle import redirection
from istio_hostagent.redirect import expectations
from istio_hostagent.redirect import model as redirect
from istio_hostagent.supervise import specs
from tests.agent.machine import Bug, Ca, Loads, Machine, Opener, Proxy, Reader, Rules, Takeover
from tests.agent.texts import ENVOY, HOSTAGENT, OWN, ROOT, SOURCES, TOKEN
from tests.fakes.caller import FakeCaller
from tests.fakes.doors import FakeDoors
from tests.fakes.files import (
    FakeCertificateFiles,
    FakeEnvironmentFiles,
    FakeProxyFiles,
    FakeSights,
    FakeStateFiles,
)
from tests.fakes.heldports import FakeHeldPorts
from tests.fakes.inbox import FakeInbox, FakeSource
from tests.fakes.notifier import FakeNotifier
from tests.fakes.packets import FakePackets, FakeRound
from tests.fakes.processes import FakeProcesses
from tests.fakes.published import FakePublished
from tests.fakes.rules import NEVER, FakeRules
from tests.fakes.watcher import FakeWatcher

WATCHDOG_S = 60.0
READY_S = 15.0
STOP_S = 30.0  # TimeoutStopSec=
# A turn that waits for nothing, so often at one moment, is a loop that burns the CPU.
MOST_TURNS = 100


class Killed(BaseException):
    """The agent is killed here."""


class _Log(logging.Handler):
    """Keeps what the agent logs; an exception that reached the loop is a bug."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.bugs: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")
        if record.exc_info:
            self.bugs.append(logging.Formatter().format(record))


class MemoryHost(Machine):
    """One host. `clock` is its time; `start`, `run`, `kill` and `stop` move its agent."""

    def __init__(self, *, is_owner: bool = False) -> None:
        super().__init__()
        self.is_owner = is_owner
        self.shown: object = None  # the rules that packets have shown last, and nothing else
        self.kill_after: int | None = None
        self.unit = ""  # as which its agent runs
        self.is_leaving = False
        self.agent: loop.Agent | None = None
        self.callers: list[FakeCaller] = []  # of this agent
        self.chance = 0.0  # what its agent draws, -1 to 1
        self.wakeups = 0  # turns that have waited before
        self.log = _Log()
        self.captured: capturecount.Captured | None = None
        self.published = FakePublished()  # what an agent that was killed has said stays
        self.log_level = logging.INFO  # of the agent
        self._recent: logging.Handler = logging.NullHandler()
        self._had_rules = False
        self._marks_lost_at = -loop.HEARTBEAT_S
        self._known_at = 0.0  # how the rules are
        self._offered: set[str] = set()  # what cluster.env has said since the agent was started
        self.space.refusal = self._before_apply
        self.space.changed = self._after_apply
        self.write(HOSTAGENT, OWN)
        self.write(TOKEN, b"token")
        self.write(ROOT, b"root")

    # -- the agent ------------------------------------------------------------------------------

    def start(self, *, leftover: int = 0) -> None:
        """Start an agent; one that is killed on the way is gone again."""
        assert self.agent is None
        self.inbox = FakeInbox(self.clock)
        # The package's service has units for the proxy, and owns its rules.
        units = self.units if self.is_owner else None
        self.processes = FakeProcesses(self.inbox, self.clock, self, self.step, units)
        self.processes.leftover = leftover
        self.doors = FakeDoors(self.inbox, self.clock, self.behind)
        self.changes = FakeSource[tuple[changes.Change, ...]](
            self.inbox, lambda told: tuple({each: None for some in told for each in some})
        )
        self.network = FakeSource[rtmonitor.Change](self.inbox, _join_flags)
        self.groups.tell = lambda: self.inbox.post(events.UnitsChanged())
        self.watcher = FakeWatcher(self.disk, lambda: self.inbox.post(events.FilesChanged()))
        self.notifier = FakeNotifier(self.stored, self.clock, self.step)
        port = self.stored.get(performer.STORED_SOCKET)
        self.kernel = self.space.kernel(is_owner=self.is_owner, port=port)
        given = ports.Ports(
            clock=self.clock,
            inbox=self.inbox,
            rules=FakeRules(self.kernel, self.inbox, self.clock, self._delays),
            changes=self.changes,
            network=self.network,
            watcher=self.watcher,
            notifier=self.notifier,
            packets=_Packets(self),
            processes=self.processes,
            doors=self.doors,
            held=FakeHeldPorts(self.ports, self.stored, self.step),
            state=_StateFiles(self),
            environment=FakeEnvironmentFiles(self.disk, self.unreadable, self.foreign),
            sights=FakeSights(),
            certificates=FakeCertificateFiles(self.disk, self.stores, self.step),
            proxy=FakeProxyFiles(self.disk, self.programs, self.step),
            machine=self.machine,
            groups=self.groups,
            jitter=lambda: self.chance,
            legacy_rules=lambda: (self.legacy_rules, tuple(self.left_by_istio)),
            istio_rules=self.glance,
            openings=self.openings,
            published=self.published,
            captured=lambda: self.captured,
            predecessors=self.others,
            unit=self.unit,
        )
        self.is_leaving = False
        self._started_at = self.clock.monotonic()
        self._offered = set()
        self._begun: set[specs.ProcessSpec] = set()
        self._shown_at = 0.0  # when packets had shown the rules last that were in
        self._offer()

        def begin() -> None:
            self.agent = app.begin(
                given,
                SOURCES,
                self.machine.facts,
                is_stored=port is not None,
                watchdog_s=WATCHDOG_S / 2,
            )
            self._recent = self.agent.recent
            logging.getLogger("istio_hostagent").addHandler(self._recent)
            self.agent.begin()

        self._living(begin)

    def _living(self, action: Callable[[], None]) -> None:
        """Do it with the agent alive; it may be killed meanwhile."""
        logger = logging.getLogger("istio_hostagent")
        logger.addHandler(self.log)
        logger.addHandler(self._recent)
        before, logger.propagate = logger.propagate, False
        logger.setLevel(self.log_level)
        try:
            action()
        except Killed:
            self.kill()
        finally:
            logger.removeHandler(self.log)
            logger.removeHandler(self._recent)
            logger.propagate = before
            self.log_level = logger.level
            logger.setLevel(logging.NOTSET)
        if self.log.bugs:
            raise Bug(self.log.bugs[0])

    def run(self, seconds: float) -> None:
        """Let time pass, with the agent if one runs."""
        end = self.clock.monotonic() + seconds
        if self.agent is not None:
            self._living(lambda: self._turns(end))
        is_over = self.agent is None or self.agent.is_stopping
        while is_over and self.clock.monotonic() < end:
            self.clock.step(end)

    def _turns(self, end: float) -> None:
        turns = 0
        while self.agent is not None and not self.agent.is_stopping:
            before = self.clock.monotonic()
            self.inbox.until = end
            self.agent.turn()
            if self.shown == self.installed():
                self._shown_at = self.clock.monotonic()
            self.wakeups += self.clock.monotonic() > before
            turns = turns + 1 if self.clock.monotonic() == before else 0
            if turns > MOST_TURNS:
                raise Bug(f"it turns and turns: {self.summary}")
            if self.clock.monotonic() >= end:
                return

    def join(self) -> None:
        """Start an agent, and let time pass until it is in the mesh."""
        self.start()
        self.until(lambda: self.is_in_mesh, 30.0, "in the mesh")

    def settle(self) -> None:
        """Let everything be taken that has happened until now."""
        self.run(0.05)

    def until(self, condition: Callable[[], bool], within_s: float, what: str) -> None:
        """Let time pass until something is true."""
        begun = self.clock.monotonic()
        end = begun + within_s
        while not condition():
            if self.clock.monotonic() >= end:
                tail = "\n".join(self.log.lines[-30:])
                raise Bug(f"not within {within_s} s: {what}; {self.summary}\n{tail}")
            self.run(max(0.05, (self.clock.monotonic() - begun) / 10))

    def kill(self) -> None:
        """SIGKILL: what it started ends with it, and a socket that nobody keeps."""
        self.agent = None
        self.kill_after = None
        self.processes.end_all()
        for caller in self.callers:
            caller.is_open = False
        self.callers = []
        self.running = [each for each in self.running if each[0].is_kept]
        self.clock.forget()
        if self.kernel.port not in self.stored.values():
            self.kernel.close()
        if not self.is_owner:
            self.stored.clear()
        self.ports.held = self.kept_ports()

    def boot(self) -> None:
        """The machine is switched off and on: what lies on disk stays."""
        if self.agent is not None:
            self.kill()
        self._end_units()
        self.space.tables, self.space.owners, self.space.addresses = {}, {}, ()
        self.openings.is_there = False
        self.stored.clear()
        self.ports.held.clear()
        self.shown = None
        for path in [path for path in self.disk.files if path.startswith("/run/")]:
            self.disk.remove(path)

    def stop(self) -> None:
        """What `systemctl stop` does: SIGTERM, and for an owner what the manager does then."""
        assert self.agent is not None
        agent = self.agent
        self.is_leaving = True
        self.inbox.post(events.Signalled(15))
        self._living(lambda: self._turns(self.clock.monotonic() + 1.0))
        self.inbox.until = float("inf")
        begun_at = self.clock.monotonic()
        if self.agent is not None:
            self._living(agent.leave)
            if self.clock.monotonic() > begun_at + STOP_S:
                raise Bug("the service manager kills it before it has left")
        if self.agent is not None:
            self.kill()
        if not self.is_owner and self.openings.is_there and not self.has_rules:
            raise Bug("invariant 8: it has left, and its rules are in the firewall")
        if self.is_owner:
            for port in self.stored.values():
                self.space.end(port)
            self.stored.clear()
            self.ports.held.clear()
            self.space.end(self.kernel.port)
            self.space.tables, self.space.addresses = {}, ()
            self.openings.is_there = False
            self._end_units()
            for name in (places.MARKER, places.GUARD):
                self.disk.remove(f"/state/{name}")

    def _end_units(self) -> None:
        """The service manager ends the proxy."""
        for _, child in self.units.running:
            child.finish(-15)
        for _, server in self.units.servers.values():
            server.finish(-15)
        self.units.servers.clear()
        self.units.running = []
        self.running = []

    def restart(self) -> None:
        """What `systemctl restart` does: SIGTERM, and another agent."""
        assert self.agent is not None
        self.inbox.post(events.Signalled(15))
        self._living(lambda: self._turns(self.clock.monotonic() + 1.0))
        self.inbox.until = float("inf")
        self._living(self.agent.leave)
        self.kill()
        self.start()

    def ask(self, verb: str, **fields: object) -> FakeCaller:
        """Ask the agent; the answer may come later."""
        caller = FakeCaller(verb, **fields)
        self.callers.append(caller)
        self.inbox.post(events.Asked(caller))
        self.settle()
        return caller

    def answer(self, verb: str, **fields: object) -> dict[str, Any]:
        """Ask the agent and let time pass until it answers."""
        caller = self.ask(verb, **fields)
        self.until(lambda: not caller.is_open, 120.0, f"the answer to {verb}")
        return caller.answers[0]

    def step(self) -> None:
        """Before each change that the agent makes."""
        if self.kill_after is not None:
            if self.kill_after == 0:
                raise Killed
            self.kill_after -= 1

    # -- what is changed on it ------------------------------------------------------------------

    def _offer(self) -> None:
        self._offered |= {self.written} - {""}

    def changed(self, path: str) -> None:
        self._offer()
        if self.agent is not None:
            self.watcher.changed(path)

    def install(self, path: str) -> None:
        self.programs.add(path)
        self.write(path, b"program")

    def uninstall(self, path: str) -> None:
        self.programs.discard(path)
        self.remove(path)

    def flush(self) -> None:
        """Somebody's `nft flush ruleset`."""
        self.space.flush()
        self.tell(is_ours=True)

    def lose_rule(self) -> None:
        """Somebody deletes a rule of ours."""
        if redirect.MAIN_TABLE in self.space.tables and not self.space.owners:
            self.space.remove_rule(redirect.MAIN_TABLE, "ISTIO_OUTPUT", 0)
            self.tell(is_ours=True)

    def lose_guard(self) -> None:
        """Somebody deletes the guard."""
        if self.space.tables.pop(redirect.GUARD_TABLE, None) is not None:
            self.tell(is_ours=True)

    def lose_marks(self, *names: str) -> None:
        """Somebody removes files of the state directory; a look a minute finds it."""
        self._marks_lost_at = self.clock.monotonic()
        for name in names:
            self.disk.remove(f"/state/{name}")

    def tell(self, *, is_ours: bool) -> None:
        """The kernel tells of somebody's commit."""
        if self.agent is not None:
            self.changes.tell((changes.Change(4711, "nft", is_ours, not is_ours),))

    def steal(self, network: str | None) -> None:
        """Somebody translates connections to a network before our rules see them, or no longer."""
        self.thief = network
        self.tell(is_ours=False)

    def shut(self, *, is_shut: bool) -> None:
        """The firewall of this host drops what comes to the proxy's ports, or no longer."""
        self.is_firewall_shut = is_shut
        self.tell(is_ours=False)

    def change_facts(self, **values: Any) -> None:
        """The machine changes, and the kernel tells."""
        self.machine.facts = self.machine.facts._replace(**values)
        if self.agent is not None:
            self.network.tell(rtmonitor.EVERYTHING)

    def set_route(self, *, has_route: bool) -> None:
        self.has_route = has_route
        if self.agent is not None:
            self.network.tell(rtmonitor.Change.ROUTES)

    def lose_certificates(self) -> None:
        """Somebody removes the files of the certificate."""
        for directory in self.certificates:
            for name in FakeCertificateFiles.NAMES:
                self.remove(f"{directory}/{name}")

    def mend(self) -> None:
        """From now on everything goes well; what changes is told, as on a real host."""
        self.disk.is_full = False
        self.is_fork_refused = False
        self.unreadable.clear()
        self.reader = Reader.GOOD
        self.ca, self.proxy, self.rules = Ca.GOOD, Proxy.GOOD, Rules.TAKEN
        self.loads, self.is_wrong_at_start = Loads.ALWAYS, False
        self.takeover = Takeover.GOOD
        self.groups.last_error = ""
        self.opener = Opener.GOOD
        soon = self.clock.monotonic() + 0.2
        self.running = [(child, spec, min(at, soon)) for child, spec, at in self.running]
        self.kill_after = None
        self.steal(None)
        self.ports.taken.clear()
        self.shut(is_shut=False)
        self.set_route(has_route=True)
        self.install(ENVOY)
        self.write(TOKEN, b"another")
        if self.agent is not None:
            self.notifier.is_away = False

    # -- what it says of itself -------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.answer("status")["status"])

    @property
    def summary(self) -> str:
        """The STATUS= text."""
        return self.notifier.said.get("STATUS", "") if self.agent is not None else "no agent"

    @property
    def is_in_mesh(self) -> bool:
        """Whether it says so."""
        return self.summary.startswith("in the mesh as ")

    def _delays(self) -> tuple[float, float]:
        """When what is asked of the rules is done, and how much later that is said."""
        if self.rules not in (Rules.TAKEN, Rules.REFUSED, Rules.BUSY):
            # Until then nobody knows what others have done to the rules.
            self._known_at = self.clock.monotonic() + redirection.ANSWER_TIME_S + 1.0
        match self.rules:
            case Rules.LATE | Rules.LATE_REFUSED:
                return 0.8, 0.4
            case Rules.SILENT:
                return 0.8, NEVER
            case Rules.HANGING:
                return NEVER, NEVER
        return 0.0, 0.0

    def _before_apply(self) -> HostAgentError | None:
        self.step()
        self._had_rules = self.has_rules
        match self.rules:
            case Rules.REFUSED | Rules.LATE_REFUSED:
                return ApplyRejected("the kernel refuses", step="create table", errno=22)
            case Rules.BUSY:
                return KernelBusy("others change the rules")
        return None

    # -- what must hold whenever the agent does something (design 2) ------------------------------

    def _after_apply(self) -> None:
        is_joined = self.has(places.MARKER)
        if self.has_rules and not self.is_leaving and not (is_joined or self.has(places.ATTEMPT)):
            raise Bug("invariant 4: rules without a mark")
        if self.has_rules and not self.rules_of:
            raise Bug("invariant 2: rules of no configuration")
        if is_joined and self._had_rules and not self.has_rules and not self.is_leaving:
            raise Bug("invariant 8: the rules of a joined host went out")
        if is_joined and self.has_rules and not self.rules_of & {self.accepted, *self._offered}:
            raise Bug(f"invariant 3: rules of {self.rules_of}, which nobody asks for")
        is_new = self.has_rules and not self._had_rules
        is_tried = is_joined and self.rules_of and self.accepted not in self.rules_of
        if is_tried and self.ports.taken & self.capture_ports():
            raise Bug("invariant 11: a changed configuration captures into a stranger's port")
        if is_new and not is_joined and self.ports.taken & self.capture_ports():
            raise Bug("invariant 11: something is captured into a port that a stranger has")
        is_kept = self.capture_ports() <= self.ports.held or self.others.running
        if is_new and not is_joined and not is_kept:
            raise Bug("invariant 11: rules before the ports are held")
        is_nobodys = self.others.held and not self.others.running
        if self._had_rules and not self.has_rules and not self.is_leaving and is_nobodys:
            raise Bug("what another agent captured goes around while connections are held")
        if is_new and not is_joined and not self._is_certified():
            raise Bug("invariant 2: rules before there is a certificate")

    def _is_certified(self) -> bool:
        """Whether there was a certificate that is still good; its files may be gone since."""
        every = itertools.chain.from_iterable(self.certificates.values())
        return any(self.clock.now() < each.not_after for each in every)

    def on_spawn(self, spec: specs.ProcessSpec) -> None:
        if self.others.running:
            raise Bug("a proxy beside that of another agent")
        if self.shown == self.installed() or self._is_replacement():
            self._begun.add(spec)
        elif spec not in self._begun:
            raise Bug("invariant 1: a proxy before packets have shown the rules")

    def _is_replacement(self) -> bool:
        """Whether one has just ended that was told to while packets had shown the rules.

        What takes its place was decided upon then; it starts whatever somebody has done to the
        rules meanwhile, as one does that ended by itself.
        """
        if not self.running:
            return False
        before = self.running[-1][0]
        is_now = before.ended_at == self.clock.monotonic()
        return is_now and before.told_at is not None and self._shown_at >= before.told_at

    def on_write(self, name: str) -> None:
        """A file of the state directory has been written."""
        # What was flushed a moment ago may have been found to work before.
        is_flushed = not self.rules_of and self.clock.monotonic() < self._known_at
        if name == reload.ACCEPTED and not (
            (self.accepted in self.rules_of or is_flushed) and self.accepted in self.proxies_of
        ):
            raise Bug(f"invariant 3: {self.accepted} is accepted and does not work")
        if name == places.MARKER and not (self.rules_of & self.proxies_of):
            raise Bug("invariant 2: joined without working")

    def on_remove(self, name: str) -> None:
        """A file of the state directory is about to be removed."""
        if name in (places.MARKER, reload.ACCEPTED) and not self.is_leaving:
            raise Bug(f"invariant 8: {name} is removed")

    def on_outcomes(
        self, made: Sequence[expectations.Expectation], outcomes: Sequence[expectations.Outcome]
    ) -> None:
        """Packets were sent."""
        findings = map(expectations.evaluate, made, outcomes)
        # A firewall that drops what is captured makes no rule wrong: a proxy may run behind it.
        is_broken = any(
            each.state is expectations.State.BROKEN and not each.is_shut for each in findings
        )
        self.shown = None if is_broken else self.installed()

    def check(self) -> None:
        """What must hold at any moment."""
        is_new = self.clock.monotonic() <= self._marks_lost_at + loop.HEARTBEAT_S
        has_mark = self.has(places.MARKER) or self.has(places.ATTEMPT)
        if self.has_rules and not has_mark and not is_new:
            raise Bug("invariant 4: rules without a mark")
        if self.agent is None:
            return
        now, said_at = self.clock.monotonic(), self.notifier.said_at
        if said_at.get("READY", now) > self._started_at + READY_S + 0.1:
            raise Bug("READY=1 is not sent in time")
        if now > said_at.get("WATCHDOG", self._started_at) + WATCHDOG_S:
            raise Bug("the service manager is not told that the agent lives")
        if not self.is_in_mesh:
            return
        if not self.rules_of and now >= self._known_at:
            raise Bug("invariant 9: in the mesh, and the rules are not there")
        if not any(child.status is None for child, _, _ in self.running):
            raise Bug("invariant 9: in the mesh, and no proxy runs")
        if self.ports.taken & self.capture_ports():
            raise Bug("invariant 11: in the mesh, and a stranger has a port")
        if not self._is_certified():
            raise Bug("invariant 9: in the mesh, and every certificate has lapsed")


class _StateFiles(FakeStateFiles):
    def __init__(self, host: MemoryHost) -> None:
        super().__init__(host.disk, step=host.step)
        self._host = host

    def write(self, name: str, data: bytes, *, mode: int) -> None:
        super().write(name, data, mode=mode)
        self._host.on_write(name)

    def remove(self, name: str) -> bool:
        self._host.on_remove(name)
        return super().remove(name)


class _Packets(FakePackets):
    def __init__(self, host: MemoryHost) -> None:
        super().__init__(host.outcome, host.step)
        self._host = host

    def send(self, made: Sequence[expectations.Expectation]) -> FakeRound:
        sent = super().send(made)
        self._host.on_outcomes(made, sent.outcomes)
        return sent


def _join_flags(told: Sequence[rtmonitor.Change]) -> rtmonitor.Change:
    found = rtmonitor.Change(0)
    for each in told:
        found |= each
    return found
