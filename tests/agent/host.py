"""A host in memory, with the real agent on it: what the test changes, and what is true there.

Everything outlives the agent but its processes, sockets and timers. What the agent asks of the
machine is answered by `tests.fakes`; how CA, proxy, kernel and packets behave is set here. Before
each change that the agent makes of anything outside itself it may be killed (`kill_after`).
"""

import enum
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from istio_hostagent.agent import app, events, loop, performer, places, reload
from istio_hostagent.config import build, model
from istio_hostagent.errors import ApplyRejected, HostAgentError, KernelBusy
from istio_hostagent.host import changes, ports, rtmonitor
from istio_hostagent.redirect import exchange, expressions, policy, promises
from istio_hostagent.redirect import model as redirect
from istio_hostagent.supervise import specs
from istio_hostagent.supervise.liveness import Answer, Door
from tests.fakes.caller import FakeCaller
from tests.fakes.clock import FakeClock
from tests.fakes.doors import FakeDoors
from tests.fakes.files import (
    Disk,
    FakeCertificateFiles,
    FakeEnvironmentFiles,
    FakeProxyFiles,
    FakeSights,
    FakeStateFiles,
)
from tests.fakes.inbox import FakeInbox, FakeSource
from tests.fakes.kernel import FakeNamespace
from tests.fakes.machine import FakeMachine
from tests.fakes.notifier import FakeNotifier
from tests.fakes.packets import FakePackets, FakeRound
from tests.fakes.processes import Ended, FakeChild, FakeProcesses, Plan, no_memory
from tests.fakes.watcher import FakeWatcher

CLUSTER, SIDECAR, HOSTAGENT = "/etc/cluster.env", "/etc/sidecar.env", "/etc/hostagent.env"
TOKEN, ROOT, CERTS, OTHER_CERTS = "/etc/token", "/etc/root.pem", "/certs", "/other"
SOURCES = places.Sources(HOSTAGENT, CLUSTER, SIDECAR)
ENVOY = "/usr/local/bin/envoy"
ELSEWHERE = "10.78.0.1"
FACTS = model.HostFacts(
    998,
    997,
    addresses=(ip_address("10.1.0.2"),),
    has_ipv6=False,
    state_dir="/state",
    runtime_dir="/run",
)
CERTIFICATE_S = 3600.0
WATCHDOG_S = 180.0
READY_S = 15.0
# A turn that waits for nothing, so often at one moment, is a loop that burns the CPU.
MOST_TURNS = 100


def _text(**keys: str) -> bytes:
    return "".join(f"{key}={value}\n" for key, value in keys.items()).encode()


_GOOD = {
    "CA_ADDR": "10.78.0.1:15012",
    "ISTIO_SERVICE_CIDR": "10.96.0.0/12",
    "ISTIO_INBOUND_PORTS": "8080",
}
# What cluster.env may say: A; others that differ in everything, in outbound or inbound rules, or
# in the proxy.
TEXTS = {
    "A": _text(**_GOOD),
    "B": _text(
        **{**_GOOD, "ISTIO_SERVICE_CIDR": "10.99.0.0/16"},
        ENVOY_PORT="15101",
        OUTPUT_CERTS=OTHER_CERTS,
        ISTIO_NAMESPACE="other",
        SERVICE_ACCOUNT="other",
    ),
    "rules": _text(**{**_GOOD, "ISTIO_SERVICE_CIDR": "10.97.0.0/16"}),
    "proxy": _text(**_GOOD, ISTIO_HOSTAGENT_ADMIN_PORT="15102"),
    "all": _text(**{**_GOOD, "ISTIO_INBOUND_PORTS": "*"}),
}
BAD = _text(**{**_GOOD, "ISTIO_SERVICE_CIDR": "nonsense"})
_HOSTAGENT = _text(
    ISTIO_HOSTAGENT_PROXY="envoy",
    OUTPUT_CERTS=CERTS,
    ISTIO_HOSTAGENT_TOKEN_FILE=TOKEN,
    CA_ROOT_CA=ROOT,
)


class Ca(enum.Enum):
    GOOD = "good"
    SILENT = "silent"
    REFUSING = "refusing"
    CRASHING = "crashing"  # its worker does
    HANGING = "hanging"  # its worker does


class Proxy(enum.Enum):
    GOOD = "good"
    SLOW = "slow"  # ready after a while
    EXITING = "exiting"
    CRASHING = "crashing"  # by a signal
    HUNG = "hung"  # runs, accepts connections, answers nothing
    UNREADY = "unready"  # answers no
    DEAF = "deaf"  # serves, and does not listen to SIGTERM
    REFUSING = "refusing"  # does not like its bootstrap
    UNDECIDED = "undecided"  # its check is killed
    MISSING_MEMORY = "no memory"  # cannot be started


class Rules(enum.Enum):
    """What the kernel says to a change of rules."""

    TAKEN = "taken"
    REFUSED = "refused"
    BUSY = "busy"


class Killed(BaseException):
    """The agent is killed here."""


class Bug(AssertionError):
    """The agent did what it never may."""


@dataclass
class Certificate:
    identity: str
    serial: str
    not_before: float
    not_after: float


def config_of(text: bytes, hostagent: bytes = _HOSTAGENT) -> model.Config:
    trust = model.Trust(is_root_only=True)
    files = ((HOSTAGENT, hostagent), (CLUSTER, text), (SIDECAR, None))
    found = build.build_config([model.Layer(path, data, trust) for path, data in files], FACTS)
    assert found.config is not None, found.problems
    return found.config


CONFIGS = {name: config_of(text) for name, text in TEXTS.items()}


# What this host may be, as far as it matters for rules and packets.
ADDRESSES = (ip_address("10.1.0.2"),), (ip_address("10.1.0.2"), ip_address("10.1.0.3")), ()
SSH_PORTS = (22,), (22, 2222)
_EVERY_FACT = [
    FACTS._replace(addresses=addresses, ssh_ports=ssh_ports, has_ipv6=has_ipv6)
    for addresses in ADDRESSES
    for ssh_ports in SSH_PORTS
    for has_ipv6 in (False, True)
]


def _as_installed(ruleset: redirect.Ruleset) -> tuple[object, object]:
    compiled = (expressions.compile_table(t, redirect.Owner.NOBODY) for t in ruleset.tables)
    return tuple(sorted(compiled, key=lambda table: table.name)), ruleset.loopback_addresses


# The configurations whose rules these are, by the rules as a kernel has them.
KNOWN: dict[object, set[str]] = {}
for _name, _config in CONFIGS.items():
    for _facts in _EVERY_FACT:
        _ruleset = policy.build_ruleset(_config.redirection, _facts)
        KNOWN.setdefault(_as_installed(_ruleset), set()).add(_name)
# By configuration and packet: the proxy's port where it has to arrive; 0: it is left alone.
EXPECTED = {
    name: {
        promise[1:4] + promise[-1:]: promise.captured_at
        for facts in _EVERY_FACT
        for promise in promises.build_promises(config.redirection, facts)
    }
    for name, config in CONFIGS.items()
}


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


class MemoryHost:
    """One host. `clock` is its time; `start`, `run`, `kill` and `stop` move its agent."""

    def __init__(self, *, is_owner: bool = False) -> None:
        self.clock = FakeClock()
        self.space = FakeNamespace()
        self.disk = Disk()
        self.machine = FakeMachine(FACTS)
        self.programs = {ENVOY}
        self.stored: dict[str, int] = {}
        self.stores: dict[str, str] = {}
        self.is_owner = is_owner
        self.ca = Ca.GOOD
        self.proxy = Proxy.GOOD
        self.is_proxy_picky = False  # only the bootstrap of B makes the proxy behave so
        self.check_s = 0.1  # so long a bootstrap is validated
        self.rules = Rules.TAKEN
        self.is_fork_refused = False
        self.thief: str | None = None  # somebody translates this network's connections before us
        self.has_route = True
        # By directory of OUTPUT_CERTS; the last one of each is visible, if its files are there.
        self.certificates: dict[str, list[Certificate]] = {CERTS: [], OTHER_CERTS: []}
        self.running: list[tuple[FakeChild, specs.ProcessSpec, float]] = []
        self.shown: object = None  # the rules that packets have shown last, and nothing else
        self.kill_after: int | None = None
        self.is_leaving = False
        self.agent: loop.Agent | None = None
        self.callers: list[FakeCaller] = []  # of this agent
        self.wakeups = 0  # turns that have waited before
        self.log = _Log()
        self._serial = 0
        self._had_rules = False
        self._offered: set[str] = set()  # what cluster.env has said since the agent was started
        self.space.refusal = self._before_apply
        self.space.changed = self._after_apply
        self.write(HOSTAGENT, _HOSTAGENT)
        self.write(TOKEN, b"token")
        self.write(ROOT, b"root")

    # -- the agent ------------------------------------------------------------------------------

    def start(self, *, leftover: int = 0) -> None:
        """Start an agent; one that is killed on the way is gone again."""
        assert self.agent is None
        self.inbox = FakeInbox(self.clock)
        self.processes = FakeProcesses(self.inbox, self.clock, self, self.step)
        self.processes.leftover = leftover
        self.doors = FakeDoors(self.inbox, self.clock, self._behind)
        self.changes = FakeSource[tuple[changes.Change, ...]](
            self.inbox, lambda told: tuple({each: None for some in told for each in some})
        )
        self.network = FakeSource[rtmonitor.Change](self.inbox, _join_flags)
        self.watcher = FakeWatcher(self.disk, lambda: self.inbox.post(events.FilesChanged()))
        self.notifier = FakeNotifier(self.stored, self.clock, self.step)
        self.environment = FakeEnvironmentFiles(self.disk)
        port = self.stored.get(performer.STORED_SOCKET)
        self.kernel = self.space.kernel(is_owner=self.is_owner, port=port)
        given = ports.Ports(
            clock=self.clock,
            inbox=self.inbox,
            kernel=self.kernel,
            changes=self.changes,
            network=self.network,
            watcher=self.watcher,
            notifier=self.notifier,
            packets=_Packets(self),
            processes=self.processes,
            doors=self.doors,
            state=_StateFiles(self),
            environment=self.environment,
            sights=FakeSights(),
            certificates=FakeCertificateFiles(self.disk, self.stores, self.step),
            proxy=FakeProxyFiles(self.disk, self.programs, self.step),
            machine=self.machine,
            jitter=lambda: 0.0,
        )
        self.is_leaving = False
        self._started_at = self.clock.monotonic()
        self._offered = set()
        self._begun: set[specs.ProcessSpec] = set()
        self._offer()

        def begin() -> None:
            self.agent = app.begin(
                given,
                SOURCES,
                self.machine.facts,
                is_stored=port is not None,
                watchdog_s=WATCHDOG_S / 2,
            )
            self.agent.begin()

        self._living(begin)

    def _living(self, action: Callable[[], None]) -> None:
        """Do it with the agent alive; it may be killed meanwhile."""
        logger = logging.getLogger("istio_hostagent")
        logger.addHandler(self.log)
        before, logger.propagate = logger.propagate, False
        try:
            action()
        except Killed:
            self.kill()
        finally:
            logger.removeHandler(self.log)
            logger.propagate = before
        if self.log.bugs:
            raise Bug(self.log.bugs[0])

    def run(self, seconds: float) -> None:
        """Let time pass, with the agent if one runs."""
        end = self.clock.monotonic() + seconds
        if self.agent is not None:
            self._living(lambda: self._turns(end))
        while self.agent is None and self.clock.monotonic() < end:
            self.clock.step(end)

    def _turns(self, end: float) -> None:
        turns = 0
        while self.agent is not None and not self.agent.is_stopping:
            before = self.clock.monotonic()
            self.inbox.until = end
            self.agent.turn()
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
        self.running = []
        self.clock.forget()
        if self.kernel.port not in self.stored.values():
            self.kernel.close()

    def boot(self) -> None:
        """The machine is switched off and on: what lies on disk stays."""
        if self.agent is not None:
            self.kill()
        self.space.tables, self.space.owners, self.space.addresses = {}, {}, ()
        self.stored.clear()
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
        if self.agent is not None:
            self._living(agent.leave)
        if self.agent is not None:
            self.kill()
        if self.is_owner:
            for port in self.stored.values():
                self.space.end(port)
            self.stored.clear()
            self.space.end(self.kernel.port)
            self.space.tables, self.space.addresses = {}, ()
            for name in (places.MARKER, places.GUARD):
                self.disk.remove(f"/state/{name}")

    def ask(self, verb: str) -> FakeCaller:
        """Ask the agent; the answer may come later."""
        caller = FakeCaller(verb)
        self.callers.append(caller)
        self.inbox.post(events.Asked(caller))
        self.settle()
        return caller

    def answer(self, verb: str) -> dict[str, Any]:
        """Ask the agent and let time pass until it answers."""
        caller = self.ask(verb)
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
        text = self.disk.files.get(CLUSTER)
        self._offered |= {name for name, data in TEXTS.items() if data == text}

    def write(self, path: str, data: bytes) -> None:
        self.disk.write(path, data)
        self._offer()
        if self.agent is not None:
            self.watcher.changed(path)

    def remove(self, path: str) -> None:
        if self.disk.remove(path) and self.agent is not None:
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

    def tell(self, *, is_ours: bool) -> None:
        """The kernel tells of somebody's commit."""
        if self.agent is not None:
            self.changes.tell((changes.Change(4711, "nft", is_ours, not is_ours),))

    def steal(self, network: str | None) -> None:
        """Somebody translates connections to a network before our rules see them, or no longer."""
        self.thief = network
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
        self.ca, self.proxy, self.rules = Ca.GOOD, Proxy.GOOD, Rules.TAKEN
        soon = self.clock.monotonic() + 0.2
        self.running = [(child, spec, min(at, soon)) for child, spec, at in self.running]
        self.kill_after = None
        self.steal(None)
        self.set_route(has_route=True)
        self.install(ENVOY)
        self.write(TOKEN, b"another")
        if self.agent is not None:
            self.environment.unreadable.clear()

    # -- what is true on it ---------------------------------------------------------------------

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

    def has(self, name: str) -> bool:
        return f"/state/{name}" in self.disk.files

    @property
    def has_rules(self) -> bool:
        return redirect.MAIN_TABLE in self.space.tables

    @property
    def rules_of(self) -> set[str]:
        """Whose rules the kernel has, exactly; empty if they are nobody's."""
        return KNOWN.get(self._installed(), set())

    def _installed(self) -> tuple[object, object]:
        tables = tuple(self.space.tables[name] for name in sorted(self.space.tables))
        return tables, self.space.addresses

    @property
    def accepted(self) -> str:
        """Whose texts are kept as those that have worked; "" if there are none."""
        return self._text_of("accepted.json")

    def _text_of(self, name: str) -> str:
        if not self.has(name):
            return ""
        kept = reload.parse_layers(self.disk.files[f"/state/{name}"], SOURCES)
        (text,) = (layer.data for layer in kept if layer.file == CLUSTER)
        return next(known for known, data in TEXTS.items() if data == text)

    @property
    def proxies_of(self) -> set[str]:
        """For which configurations a proxy serves now."""
        texts = [self.disk.files[spec.argv[spec.argv.index("-c") + 1]] for spec in self.ready]
        found: set[str] = set()
        for text in texts:
            port = next((port for port in (b"15101", b"15102") if port in text), b"")
            found |= {b"15101": {"B"}, b"15102": {"proxy"}, b"": {"A", "rules", "all"}}[port]
        return found

    @property
    def ready(self) -> list[specs.ProcessSpec]:
        """The proxies that serve."""
        return [
            spec
            for child, spec, ready_at in self.running
            if child.status is None and self.clock.monotonic() >= ready_at
        ]

    def visible(self, directory: str = CERTS) -> Certificate | None:
        """The certificate that a reader of this directory sees."""
        held = self.certificates[directory]
        return held[-1] if f"{directory}/key.pem" in self.disk.files and held else None

    # -- how it behaves (tests.fakes.processes.Behaviour) ---------------------------------------

    def worker(self, module: str, request: Any) -> Plan:
        if self.is_fork_refused:
            raise no_memory()
        if module == "certificate":
            return self._certificate_worker(request)
        if module == "probe_sockets":
            answer = {"errnos": [0] * (len(request["groups"]) + 1)}
            return Plan(0.05, lambda: (0, json.dumps(answer).encode()))
        assert module == "second_reader"
        observed = exchange.to_json(self.kernel.observe())
        return Plan(0.05, lambda: (0, json.dumps({"observed": observed}).encode()))

    def _certificate_worker(self, request: Any) -> Plan:
        op = request["op"]
        is_asking = op in ("ensure", "renew") and not self._is_held_for(request, op)
        match self.ca if is_asking else Ca.GOOD:
            case Ca.SILENT:
                return Plan(20.0, lambda: self._no(request, "authority-unavailable"))
            case Ca.REFUSING:
                return Plan(0.1, lambda: self._no(request, "certificate-refused"))
            case Ca.CRASHING:
                return Plan(0.1, lambda: (-11, b""))
            case Ca.HANGING:
                return Plan(None)
        return Plan(0.1, lambda: self._certify(request, op))

    def _good_for(self, request: Any) -> list[Certificate]:
        now, identity = self.clock.now(), request["spiffe_id"]
        held = self.certificates[request["output_dir"]]
        return [each for each in held if each.identity == identity and now < each.not_after]

    def _is_held_for(self, request: Any, op: str) -> bool:
        found = self._good_for(request)
        left = (found[-1].not_after - self.clock.now()) / CERTIFICATE_S if found else 0.0
        return op == "ensure" and left > 0.5

    def _certify(self, request: Any, op: str) -> Ended:
        directory = request["output_dir"]
        if op == "release":
            self.certificates[directory] = []
            for name in FakeCertificateFiles.NAMES:
                self.remove(f"{directory}/{name}")
            return 0, b'{"held": null}'
        visible = self.visible(directory)
        if op == "inspect":
            if visible is None or visible not in self._good_for(request):
                return self._no(request, "certificate-untrusted")
            return self._yes(visible, is_obtained=False)
        is_obtained = not self._is_held_for(request, op)
        if is_obtained:
            self._serial += 1
            now = self.clock.now()
            made = Certificate(
                request["spiffe_id"], f"{self._serial:x}", now - 60, now + CERTIFICATE_S
            )
        else:
            made = self._good_for(request)[-1]
        others = [each for each in self.certificates[directory] if each is not made]
        self.certificates[directory] = [*others[-2:], made]
        for name in FakeCertificateFiles.NAMES:
            self.write(f"{directory}/{name}", made.serial.encode())
        return self._yes(made, is_obtained=is_obtained)

    def _yes(self, found: Certificate, *, is_obtained: bool) -> Ended:
        held = {
            "identity": found.identity,
            "serial": found.serial,
            "not_before": found.not_before,
            "not_after": found.not_after,
            "received": found.not_before + 60,
            "obtained": is_obtained,
            "via": "token" if is_obtained else "",
        }
        return 0, json.dumps({"held": held}).encode()

    def _no(self, request: Any, code: str) -> Ended:
        error = {"code": code, "message": f"told {code}", "hint": ""}
        answer: dict[str, Any] = {"held": None, "error": error}
        visible = self.visible(request["output_dir"])
        if visible is not None and visible in self._good_for(request):
            answer["held"] = json.loads(self._yes(visible, is_obtained=False)[1])["held"]
        return 0, json.dumps(answer).encode()

    def _mode(self, argv: Sequence[str]) -> Proxy:
        """How the proxy behaves with the bootstrap that these arguments name."""
        path = argv[argv.index("-c") + 1]
        text = self.disk.files[path].decode()
        is_meant = not self.is_proxy_picky or "15101" in text
        return self.proxy if is_meant else Proxy.GOOD

    def once(self, argv: Sequence[str]) -> Plan:
        if argv[0] not in self.programs:
            return Plan(0.01, lambda: (127, b"not found\n"))
        match self._mode(argv):
            case Proxy.REFUSING:
                return Plan(self.check_s, lambda: (1, b"do not like it\n"))
            case Proxy.UNDECIDED:
                return Plan(self.check_s, lambda: (-9, b""))
        return Plan(self.check_s)

    def program(self, child: FakeChild, spec: specs.ProcessSpec) -> Plan:
        if self.is_fork_refused:
            raise no_memory()
        self._on_spawn(spec)
        if spec.argv[0] not in self.programs:
            return Plan(0.01, lambda: (127, b"not found\n"))
        mode = self._mode(spec.argv)
        if mode is Proxy.MISSING_MEMORY:
            raise no_memory()
        child.hears = mode not in (Proxy.DEAF, Proxy.HUNG)
        ready_s = {Proxy.SLOW: 5.0, Proxy.GOOD: 0.2, Proxy.DEAF: 0.2}.get(mode, float("inf"))
        self.running = [each for each in self.running if each[0].status is None]
        if self.running:
            raise Bug("two proxies at once")
        self.running.append((child, spec, self.clock.monotonic() + ready_s))
        if mode is Proxy.EXITING:
            return Plan(0.1, lambda: (1, b"cannot go on\n"))
        if mode is Proxy.CRASHING:
            return Plan(0.1, lambda: (-11, b""))
        return Plan(None)

    def _behind(self, door: Door) -> Answer:
        for child, spec, ready_at in self.running:
            if child.status is None and door in spec.doors:
                if self._mode(spec.argv) is Proxy.HUNG:
                    return Answer.SILENT
                is_ready = self.clock.monotonic() >= ready_at
                return Answer.READY if is_ready else Answer.UNREADY
        return Answer.REFUSED

    def outcome(self, promise: promises.Promise) -> promises.Outcome:
        """Where a packet goes, by what the kernel has: whatever the agent wants it to have."""
        is_outbound = promise.sender is not promises.Sender.NEIGHBOUR
        is_local = promise.destination.startswith("127.")
        if is_outbound and not is_local and not self.has_route:
            return promises.Outcome(errno=101)
        if self.thief is not None and promise.destination.startswith(self.thief):
            return promises.Outcome(ELSEWHERE, 80)
        key = promise[1:4] + promise[-1:]
        at = max((EXPECTED[name].get(key, 0) for name in self.rules_of), default=0)
        if not at:
            return promises.Outcome(promise.destination, promise.port)
        address = "127.0.0.1" if is_outbound and not is_local else promise.destination
        return promises.Outcome(address, at)

    def _before_apply(self) -> HostAgentError | None:
        self.step()
        self._had_rules = self.has_rules
        match self.rules:
            case Rules.REFUSED:
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
        if is_new and not is_joined and not self._is_certified():
            raise Bug("invariant 2: rules before there is a certificate")

    def _is_certified(self) -> bool:
        """Whether there was a certificate that is still good; its files may be gone since."""
        every = itertools.chain.from_iterable(self.certificates.values())
        return any(self.clock.now() < each.not_after for each in every)

    def _on_spawn(self, spec: specs.ProcessSpec) -> None:
        # One that ended by itself is started again, whatever its rules have come to meanwhile.
        if self.shown == self._installed():
            self._begun.add(spec)
        elif spec not in self._begun:
            raise Bug("invariant 1: a proxy before packets have shown the rules")

    def on_write(self, name: str) -> None:
        """A file of the state directory has been written."""
        if name == reload.ACCEPTED and not (
            self.accepted in self.rules_of and self.accepted in self.proxies_of
        ):
            raise Bug(f"invariant 3: {self.accepted} is accepted and does not work")
        if name == places.MARKER and not (self.rules_of & self.proxies_of):
            raise Bug("invariant 2: joined without working")

    def on_remove(self, name: str) -> None:
        """A file of the state directory is about to be removed."""
        if name in (places.MARKER, reload.ACCEPTED) and not self.is_leaving:
            raise Bug(f"invariant 8: {name} is removed")

    def on_outcomes(
        self, made: Sequence[promises.Promise], outcomes: Sequence[promises.Outcome]
    ) -> None:
        """Packets were sent."""
        findings = map(promises.judge, made, outcomes)
        is_broken = any(each.state is promises.State.BROKEN for each in findings)
        self.shown = None if is_broken else self._installed()

    def check(self) -> None:
        """What must hold at any moment."""
        if self.has_rules and not (self.has(places.MARKER) or self.has(places.ATTEMPT)):
            raise Bug("invariant 4: rules without a mark")
        if self.agent is None:
            return
        now, said_at = self.clock.monotonic(), self.notifier.said_at
        if "READY" not in said_at and now > self._started_at + READY_S + 0.1:
            raise Bug("READY=1 is not sent in time")
        if now > said_at.get("WATCHDOG", self._started_at) + WATCHDOG_S:
            raise Bug("the service manager is not told that the agent lives")
        if not self.is_in_mesh:
            return
        if not self.rules_of:
            raise Bug("invariant 9: in the mesh, and the rules are not there")
        if not any(child.status is None for child, _, _ in self.running):
            raise Bug("invariant 9: in the mesh, and no proxy runs")
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

    def send(self, made: Sequence[promises.Promise]) -> FakeRound:
        sent = super().send(made)
        self._host.on_outcomes(made, sent.outcomes)
        return sent


def _join_flags(told: Sequence[rtmonitor.Change]) -> rtmonitor.Change:
    found = rtmonitor.Change(0)
    for each in told:
        found |= each
    return found
