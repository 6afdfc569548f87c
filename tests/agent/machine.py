"""A host in memory as the agent finds it: what lies on it, what is true there, how it behaves.

Not here: the agent itself, and what changes (`host`). Everything outlives the agent but what it has
started. A test sets how CA, proxy, kernel and packets behave.
"""

import enum
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from istio_hostagent.agent import reload
from istio_hostagent.redirect import exchange, expectations, firewall, takeover, units
from istio_hostagent.redirect import model as redirect
from istio_hostagent.supervise import specs
from istio_hostagent.supervise.liveness import Answer, Door
from tests.agent.texts import (
    CERTS,
    CLUSTER,
    CONFIGS,
    ENVOY,
    EXPECTED,
    FACTS,
    KNOWN,
    OTHER_CERTS,
    SOURCES,
    TEXTS,
    packet_of,
)
from tests.fakes.clock import FakeClock
from tests.fakes.files import Disk, FakeCertificateFiles, read_foreign
from tests.fakes.groups import FakeGroups
from tests.fakes.heldports import FakePorts
from tests.fakes.kernel import FakeNamespace
from tests.fakes.machine import FakeMachine, FakePredecessors
from tests.fakes.openings import FakeOpenings
from tests.fakes.processes import Ended, FakeChild, FakeUnits, Plan, no_memory
from tests.fakes.registry import FakeRegistries, Mood

ELSEWHERE = "10.78.0.1"  # where somebody else's translation leads
CERTIFICATE_S = 3600.0


class Hook(enum.Enum):
    """What becomes of the renewal hook."""

    GOOD = "good"
    FAILING = "failing"
    HANGING = "hanging"
    ASLEEP = "asleep"  # the unit does not run


MOUNTED, MOUNTED_IDENTITY = "/mounted", "spiffe://cluster.local/ns/mounted/sa/mounted"


class Bug(AssertionError):
    """The agent did what it never may."""


class Ca(enum.Enum):
    GOOD = "good"
    SILENT = "silent"
    REFUSING = "refusing"
    MISSING = "missing"  # nothing to show to it
    CRASHING = "crashing"  # its worker does
    HANGING = "hanging"  # its worker does


class Takeover(enum.Enum):
    GOOD = "good"
    LOCKED = "locked"  # its worker cannot change anything
    CRASHING = "crashing"
    HANGING = "hanging"


class Opener(enum.Enum):
    GOOD = "good"
    REFUSED = "refused"  # a program of the firewall changes nothing
    CRASHING = "crashing"  # its worker does
    HANGING = "hanging"


class Proxy(enum.Enum):
    GOOD = "good"
    SLOW = "slow"  # ready after a while
    EXITING = "exiting"
    CRASHING = "crashing"  # by a signal
    HUNG = "hung"  # runs, accepts connections, answers nothing
    UNREADY = "unready"  # answers no
    DEAF = "deaf"  # serves, and does not listen to SIGTERM
    DRAINED = "drained"  # says that it is ready, and its listeners are closed
    REFUSING = "refusing"  # does not like its bootstrap
    UNDECIDED = "undecided"  # its check is killed
    UNWATCHED = "unwatched"  # its check finds that its user may watch no more files
    EXITING_UNWATCHED = "exiting unwatched"  # it finds that once it is started
    MISSING_MEMORY = "no memory"  # cannot be started


UNWATCHED = b"unable to add filesystem watch for file /run/x: No space left on device\n"


class Loads(enum.Enum):
    """When a proxy loads the certificate, beside its start."""

    ALWAYS = "always"  # whenever it changes
    ASKED = "asked"  # when its own files are written
    NEVER = "never"
    MUTE = "mute"  # it does not say which one it has


class Reader(enum.Enum):
    """What becomes of the worker that reads files which others than root can change."""

    GOOD = "good"
    CRASHING = "crashing"
    HANGING = "hanging"


class Rules(enum.Enum):
    """What becomes of what is asked of the packet rules."""

    TAKEN = "taken"
    REFUSED = "refused"
    BUSY = "busy"
    LATE = "late"  # a worker does it after a while, and says so a little later
    LATE_REFUSED = "late, and refused"
    SILENT = "silent"  # a worker does it, and never says so
    HANGING = "hanging"  # a worker never does it


@dataclass
class Certificate:
    identity: str
    serial: str
    not_before: float
    not_after: float
    is_copied: bool = False


NO_ANSWER = {"code": "resolver-silent", "message": "it does not answer", "hint": ""}
NO_END = {"code": "child-failed", "message": "istio.service: does not end", "hint": ""}


class Machine:
    """Everything of one host but its agent."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.space = FakeNamespace()
        self.disk = Disk()
        self.machine = FakeMachine(FACTS)
        self.groups = FakeGroups()
        self.others = FakePredecessors()
        self.is_resolver_mute = False
        self.others_let_in = True  # what holds connections can be taken out
        self.jobs = b""  # what systemctl list-jobs says
        self.drained = 0
        self.others_end = True  # they do as they are told
        self.others_return = True
        self.programs = {ENVOY}
        self.stored: dict[str, int] = {}  # descriptors that the service manager keeps
        self.ports = FakePorts()
        self.ports.listening = self.listens
        self.stores: dict[str, str] = {}  # of certificates, with their directory of OUTPUT_CERTS
        self.ca = Ca.GOOD
        self.life_s = CERTIFICATE_S  # of what the CA gives
        self.proxy = Proxy.GOOD
        self.loads = Loads.ALWAYS
        self.certificate_says_s = 0.0  # so long after it has written one its worker ends
        self.is_wrong_at_start = False  # a proxy that is started finds none
        self._loaded: Certificate | None = None  # by the proxy that runs
        self._files_loaded: list[int] = []  # the numbers of the writes of its own files then
        self.late_s = 0.0  # so much later it is told that the next Envoy serves
        self.is_proxy_picky = False  # only the bootstrap of B makes the proxy behave so
        self.check_s = 0.1  # so long a bootstrap is validated
        self.rules = Rules.TAKEN
        self.is_fork_refused = False
        self.servers: list[tuple[str, ...]] = []  # of ours that were started, with their arguments
        self.server_plan = Plan(None)
        self.legacy_rules: tuple[str, ...] = ()
        self.left_by_istio: dict[takeover.Part, int] = {}  # rules of its scripts
        self.takeover = Takeover.GOOD
        self.foreign: set[str] = set()  # what others than root can change of those
        self.reader = Reader.GOOD
        self.unreadable: set[str] = set()  # paths of environment files
        self.is_firewall_shut = False  # it lets in what applications listen on, not the proxy
        self.openings = FakeOpenings()
        self.opener = Opener.GOOD
        self.thief: str | None = None  # somebody translates this network's connections before us
        self.has_route = True
        self.sends_nothing = False  # no packet gets anywhere
        self.is_v6_routed = True
        # By directory of OUTPUT_CERTS; the last one of each is visible, if its files are there.
        self.certificates: dict[str, list[Certificate]] = {CERTS: [], OTHER_CERTS: []}
        self.mounted: Certificate | None = None  # what somebody else has put into PROV_CERT
        self.registries = FakeRegistries()
        self.outputs: dict[str, str] = {}  # what is in the files of ISTIO_HOSTAGENT_OUTPUTS
        self.unwritable: set[str] = set()  # of their paths
        self.unstartable: set[str] = set()  # programs that are run once
        self.told: list[tuple[str, ...]] = []  # every call of the renewal hook
        self.hook = Hook.GOOD
        self.running: list[tuple[FakeChild, specs.ProcessSpec, float]] = []  # ready from when on
        self.units = FakeUnits()  # where a proxy outlives its agent
        self.hot_restart = "11.104"  # of the program that would be started
        self._is_marked = False  # an Envoy that was to take over has not, and left its mark
        self._has_taken_over: set[int] = set()  # pids
        self.drained_pids: set[int] = set()  # whose listeners are closed
        self._serial = 0

    def write(self, path: str, data: bytes) -> None:
        self.disk.write(path, data)
        self.changed(path)

    def remove(self, path: str) -> None:
        if self.disk.remove(path):
            self.changed(path)

    def changed(self, path: str) -> None:
        """A file was written or removed."""

    def on_spawn(self, spec: specs.ProcessSpec) -> None:
        """A proxy is about to run."""

    # -- what is true on it ---------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return f"/state/{name}" in self.disk.files

    @property
    def has_rules(self) -> bool:
        return redirect.MAIN_TABLE in self.space.tables

    def others_left_alone(self) -> set[int]:
        """The control groups that are left alone since they are of no included unit."""
        return self.left_alone(comment=units.OTHER)

    def left_alone(
        self,
        table: str = redirect.MAIN_TABLE,
        chain: str = "ISTIO_OUTPUT",
        comment: str = units.EXCLUDED,
    ) -> set[int]:
        """The control groups of units that a chain leaves alone; none where there are no rules."""
        chains = self.space.tables[table].chains if table in self.space.tables else ()
        rules = (rule for each in chains if each.name == chain for rule in each.rules)
        values = [
            dict(rule.expressions[1].attributes)["data"]
            for rule in rules
            if rule.comment == comment
        ]
        return {int.from_bytes(each, sys.byteorder) for each in values if isinstance(each, bytes)}

    @property
    def rules_of(self) -> set[str]:
        """Whose rules the kernel has, exactly; empty if they are nobody's."""
        return KNOWN.get(self.installed(), set())

    def installed(self) -> tuple[object, object]:
        """What packets of ours meet: nothing is captured or not by the guard, nor by units."""
        names = sorted(self.space.tables.keys() - {redirect.GUARD_TABLE})
        tables = tuple(_without_units(self.space.tables[name]) for name in names)
        return tables, self.space.addresses

    @property
    def written(self) -> str:
        """What cluster.env says; "" if it is gone or bad."""
        text = self.disk.files.get(CLUSTER)
        return next((name for name, data in TEXTS.items() if data == text), "")

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
        found: set[str] = set()
        for spec in self.ready:
            text = self._bootstrap(spec.argv)
            if text is None:  # pilot-agent: the keys that only we read are no reason for another
                is_b = dict(spec.environment)["POD_NAMESPACE"] == "other"
                found |= {"B"} if is_b else set(TEXTS) - {"B"}
                continue
            port = next((port for port in ("15101", "15102") if port in text), "")
            found |= {"15101": {"B"}, "15102": {"proxy"}, "": {"A", "rules", "all", "names"}}[port]
        return found

    def _bootstrap(self, argv: Sequence[str]) -> str | None:
        """The bootstrap that these arguments name; None: pilot-agent makes its own."""
        if "-c" not in argv:
            return None
        return self.disk.files[argv[argv.index("-c") + 1]].decode()

    @property
    def ready(self) -> list[specs.ProcessSpec]:
        """The proxies that serve."""
        return [spec for _, spec, ready_at in self.serving if self.clock.monotonic() >= ready_at]

    @property
    def serving(self) -> list[tuple[FakeChild, specs.ProcessSpec, float]]:
        """Of two that run the one that answers; none of one whose predecessor has gone early."""
        alive = [each for each in self.running if each[0].status is None]
        newest = [each for each in alive[-1:] if self._is_on_its_own(each[0], each[1])]
        return newest or [each for each in alive[:1] if self._is_on_its_own(each[0], each[1])]

    def _is_on_its_own(self, child: FakeChild, spec: specs.ProcessSpec) -> bool:
        is_open = child.pid not in self.drained_pids
        return is_open and (not spec.epoch or child.pid in self._has_taken_over)

    def listens(self, port: int) -> bool:
        """Whether a proxy listens there."""
        return any(
            (port in spec.listens or spec.admin == specs.Admin(port=port))
            and self._mode(spec.argv, spec.environment) is not Proxy.DRAINED
            and port not in self.ports.taken
            for spec in self.ready
        )

    def capture_ports(self) -> set[int]:
        """Where the rules that are in lead to."""
        names = self.rules_of
        return {port for name in names for port in CONFIGS[name].redirection.capture_ports}

    def kept_ports(self) -> set[int]:
        """Those whose sockets the service manager keeps."""
        return {int(name[5:]) for name in self.stored if name.startswith("port-")}

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
            answer = {"errnos": [0] * (len(request["groups"]) + 2)}
            return Plan(0.05, lambda: (0, json.dumps(answer).encode()))
        if module == "port_owner":
            found = {"user": "stranger", "pid": 4711, "program": "nc"}
            return Plan(0.02, lambda: (0, json.dumps(found).encode()))
        if module == "reader":
            match self.reader:
                case Reader.CRASHING:
                    return Plan(0.02, lambda: (-9, b""))
                case Reader.HANGING:
                    return Plan(None)
            return Plan(0.02, lambda: (0, read_foreign(self.disk, self.unreadable, request)))
        if module == "served":
            return Plan(0.05, lambda: (0, json.dumps(self._served(request)).encode()))
        if module == "takeover":
            match self.takeover:
                case Takeover.CRASHING:
                    return Plan(0.02, lambda: (-11, b""))
                case Takeover.HANGING:
                    return Plan(None)
            return Plan(0.3, lambda: (0, json.dumps(self._take_over(request)).encode()))
        if module == "hotrestart":
            return self._look_after_hot_restart(request)
        if module == "drain":
            self.drained += 1
            return Plan(0.1, lambda: (0, b'{"error": null}'))
        if module == "queries":
            error = NO_ANSWER if self.is_resolver_mute else None
            return Plan(0.05, lambda: (0, json.dumps({"error": error}).encode()))
        if module == "predecessor":
            return Plan(0.5, lambda: (0, json.dumps(self._succeed(request)).encode()))
        if module == "openings":
            match self.opener:
                case Opener.CRASHING:
                    return Plan(0.02, lambda: (-11, b""))
                case Opener.HANGING:
                    return Plan(None)
            return Plan(0.1, lambda: (0, json.dumps(self._open(request)).encode()))
        if module == "catalogue":
            return self.registries.read(request)
        if module == "registration":
            is_hanging = self.registries.mood is Mood.HANGING
            if is_hanging:
                return Plan(None)
            return Plan(0.1, lambda: (0, json.dumps(self.registries.perform(request)).encode()))
        if module == "outputs":
            return Plan(0.2, lambda: self._write_outputs(request))
        assert module == "second_reader"
        # It reads in the middle of its time.
        read: list[Any] = []
        kernel = self.space.kernel()
        self.clock.later(0.025, lambda: read.append(exchange.to_json(kernel.observe())))
        return Plan(0.05, lambda: (0, json.dumps({"observed": read[0]}).encode()))

    def _look_after_hot_restart(self, request: Any) -> Plan:
        answer: dict[str, Any] = {}
        after_s = 0.05
        match request["task"]:
            case "await":
                now, epoch = self.clock.monotonic(), request["epoch"]
                at = [at for _, spec, at in self.running if spec.epoch == epoch]
                after_s = min(max([each - now for each in at], default=0.0), request["within_s"])

                def look() -> Ended:
                    is_ready = any(
                        spec.epoch == epoch and child.pid in self._has_taken_over
                        for child, spec, _ in self.running
                    )
                    return 0, json.dumps({"is_ready": is_ready}).encode()

                return Plan(max(after_s, 0.0) + 0.05 + self.late_s, look)
            case "compare":
                answer = {"running": "11.104", "offered": self.hot_restart}
            case "unmark":
                self._is_marked = False
        return Plan(after_s, lambda: (0, json.dumps(answer).encode()))

    def _succeed(self, request: Any) -> dict[str, Any]:
        """Somebody else's agent ends, or comes back; connections are held in between."""
        match request["act"]:
            case "prepare":
                self.others.held = True
                self.others.recorded = tuple(request["units"])
            case "take_over":
                self.others.held = True
                self.others.recorded = tuple(request["units"])
                if not self.others_end:
                    return {"held_s": 1, "is_held": True, "error": NO_END}
                self.others.running = ()
            case "let_in":
                if not self.others_let_in:
                    return {"held_s": 1, "is_held": True, "error": NO_END}
                self.others.held = False
            case "give_back":
                if not self.others_let_in:
                    return {"held_s": 1, "is_held": True, "error": NO_END}
                self.others.held = self.others.lacks_port and self.others_return
                if not self.others_return:
                    return {"held_s": 1, "is_held": False, "error": NO_END}
                self.others.running = tuple(request["units"])
        return {"held_s": 1, "is_held": self.others.held, "error": None}

    def _open(self, request: Any) -> dict[str, Any]:
        chain, refused = "chain inet filter input", []
        was_there = self.openings.is_there
        if self.opener is Opener.REFUSED:
            refused = ["nft: Error: Operation not permitted"]
        elif request["passages"]:
            self.openings.is_there = True
        is_there = self.openings.is_there
        answer = {"opened": [chain] if is_there else [], "refused": refused, "error": None}
        return answer | {"has_changed": is_there != was_there}

    def run_istio(self, part: takeover.Part) -> None:
        """A script of Istio's writes its rules; of those in legacy tables nobody is told."""
        self.left_by_istio[part] = 23

    def glance(self) -> tuple[takeover.Part, ...]:
        """Where scripts of Istio's have left something."""
        return tuple(self.left_by_istio)

    def _take_over(self, request: Any) -> dict[str, Any]:
        part = takeover.Part(request["part"])
        error = None
        found = left = self.left_by_istio.get(part, 0)
        if request["removes"] and self.takeover is Takeover.LOCKED:
            message = "another program holds the lock of xtables"
            error = {"code": "kernel-busy", "message": message, "hint": ""}
        elif request["removes"] and not self.space.kernel().observe().tables:
            message = "rules of ours are not there"
            error = {"code": "kernel-busy", "message": message, "hint": ""}
        elif request["removes"]:
            self.left_by_istio.pop(part, None)
            left = 0

        def show(count: int) -> list[dict[str, Any]]:
            place = {"rules": count, "author": "istio-iptables", "place": "iptables-legacy"}
            return [place] if count else []

        return {"found": show(found), "left": show(left), "error": error}

    def _served(self, request: Any) -> dict[str, Any]:
        """What the proxy that runs says of its certificate."""
        directories = {
            OTHER_CERTS if OTHER_CERTS in json.dumps(each.links) else CERTS
            for each in self.ready
            if self._bootstrap(each.argv) is None
        }
        directories |= {
            OTHER_CERTS if "15101" in (self._bootstrap(each.argv) or "") else CERTS
            for each in self.ready
        }
        if not directories or self.loads is Loads.MUTE:
            error = {"code": "authority-unavailable", "message": "it is mute", "hint": ""}
            return {"error": error}
        visible = self.visible(directories.pop())
        is_told = self.loads is Loads.ASKED and self._files_loaded != self._own_files()
        if self.loads is Loads.ALWAYS or is_told:
            self._load(visible)
        shown = self._loaded
        is_fitting = shown is not None and shown.identity == request["identity"]
        return {"serials": [shown.serial] if shown is not None and is_fitting else []}

    def _own_files(self) -> list[int]:
        is_own = "workload_certificate.json"
        return [at for path, at in self.disk.written.items() if path.endswith(is_own)]

    def _load(self, found: Certificate | None) -> None:
        self._loaded, self._files_loaded = found, self._own_files()

    def put(self, serial: str, life_s: float) -> None:
        """Somebody else renews the certificate in its own directory."""
        now = self.clock.now()
        self.mounted = Certificate(MOUNTED_IDENTITY, serial, now - 60, now + life_s)
        self.write(f"{MOUNTED}/cert-chain.pem", serial.encode())

    def _adopt(self, request: Any) -> Ended:
        """Show what somebody else has put there, if it is good."""
        held = self.certificates[request["output_dir"]]
        if self.mounted is None or self.mounted.not_after <= self.clock.now():
            return self._no(request, "certificate-untrusted")
        is_new = self.mounted not in held[-1:]
        if is_new:
            held.append(self.mounted)
            for name in FakeCertificateFiles.NAMES:
                self.write(f"{request['output_dir']}/{name}", self.mounted.serial.encode())
        via = "socket" if request["secret_source"] else "files"
        return self._yes(self.mounted, is_obtained=is_new, via=via)

    def _certificate_worker(self, request: Any) -> Plan:
        op = request["op"]
        if request.get("mounted_dir") or request.get("secret_source"):
            request = request | {"spiffe_id": MOUNTED_IDENTITY}
            if op in ("ensure", "renew"):
                return Plan(0.1, lambda: self._adopt(request))
        is_asking = op in ("ensure", "renew") and not self._is_held_for(request, op)
        match self.ca if is_asking else Ca.GOOD:
            case Ca.SILENT:
                wait_s = float(request["timeout_s"])
                return Plan(wait_s, lambda: self._no(request, "authority-unavailable"))
            case Ca.REFUSING:
                return Plan(0.1, lambda: self._no(request, "certificate-refused"))
            case Ca.MISSING:
                return Plan(0.1, lambda: self._no(request, "credential-missing"))
            case Ca.CRASHING:
                return Plan(0.1, lambda: (-11, b""))
            case Ca.HANGING:
                return Plan(None)
        if self.certificate_says_s and is_asking:
            ended = self._certify(request, op)
            return Plan(self.certificate_says_s, lambda: ended)
        return Plan(0.1, lambda: self._certify(request, op))

    def _good_for(self, request: Any) -> list[Certificate]:
        now, identity = self.clock.now(), request["spiffe_id"]
        held = self.certificates[request["output_dir"]]
        return [each for each in held if each.identity == identity and now < each.not_after]

    def _is_held_for(self, request: Any, op: str) -> bool:
        found = self._good_for(request)
        left = (found[-1].not_after - self.clock.now()) / self.life_s if found else 0.0
        return op == "ensure" and left > 0.5 and not found[-1].is_copied

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
                request["spiffe_id"], f"{self._serial:x}", now - 60, now + self.life_s
            )
        else:
            made = self._good_for(request)[-1]
        others = [each for each in self.certificates[directory] if each is not made]
        self.certificates[directory] = [*others[-2:], made]
        for name in FakeCertificateFiles.NAMES:
            self.write(f"{directory}/{name}", made.serial.encode())
        return self._yes(made, is_obtained=is_obtained)

    def _yes(self, found: Certificate, *, is_obtained: bool, via: str = "token") -> Ended:
        held = {
            "identity": found.identity,
            "serial": found.serial,
            "not_before": found.not_before,
            "not_after": found.not_after,
            "received": found.not_before + 60,
            "copied": found.is_copied,
            "obtained": is_obtained,
            "via": via if is_obtained else "",
        }
        return 0, json.dumps({"held": held}).encode()

    def _no(self, request: Any, code: str) -> Ended:
        error = {"code": code, "message": f"told {code}", "hint": ""}
        answer: dict[str, Any] = {"held": None, "error": error}
        visible = self.visible(request["output_dir"])
        if visible is not None and visible in self._good_for(request):
            answer["held"] = json.loads(self._yes(visible, is_obtained=False)[1])["held"]
        return 0, json.dumps(answer).encode()

    def _mode(self, argv: Sequence[str], environment: Sequence[tuple[str, str]] = ()) -> Proxy:
        """How a proxy behaves with these arguments."""
        text = self._bootstrap(argv) or ""
        is_b = "15101" in text or ("POD_NAMESPACE", "other") in environment
        return self.proxy if is_b or not self.is_proxy_picky else Proxy.GOOD

    def _tell(self, argv: Sequence[str]) -> Plan:
        """The renewal hook, or systemctl for it."""
        if "is-active" in argv:
            is_asleep = self.hook is Hook.ASLEEP
            return Plan(0.05, lambda: (3, b"inactive\n") if is_asleep else (0, b"active\n"))
        self.told.append(tuple(argv))
        if self.hook is Hook.HANGING:
            return Plan(None)
        is_good = self.hook is Hook.GOOD
        return Plan(0.1, lambda: (0, b"") if is_good else (1, b"no such luck\n"))

    def _write_outputs(self, request: Any) -> Ended:
        if "kept" in request:
            gone = sorted(self.outputs.keys() - set(request["kept"]))
            removed = [path for path in gone if path not in self.unwritable]
            for path in removed:
                del self.outputs[path]
            failed = [f"{path} stays" for path in gone if path in self.unwritable]
            return 0, json.dumps({"removed": removed, "left": [], "failed": failed}).encode()
        held = self.visible(request["output_dir"])
        if held is None or held.identity != request["identity"]:
            error = {"code": "certificate-untrusted", "message": "told no", "hint": ""}
            return 0, json.dumps({"outputs": [], "error": error}).encode()
        written = []
        for path in (each["path"] for each in request["outputs"]):
            is_shut = path in self.unwritable
            is_changed = not is_shut and self.outputs.get(path) != held.serial
            if not is_shut:
                self.outputs[path] = held.serial
            written.append({"is_changed": is_changed, "error": f"{path} shut" * is_shut})
        self.disk.write(f"{request['record']}/record.json", b"{}")
        return 0, json.dumps({"outputs": written}).encode()

    def once(self, argv: Sequence[str]) -> Plan:
        if argv[0] in self.unstartable:
            raise no_memory()
        if "list-jobs" in argv:
            return Plan(0.02, lambda: (0, self.jobs))
        if argv[0] in ("/usr/bin/env", "/usr/bin/systemctl"):
            return self._tell(argv)
        if argv[0] not in self.programs:
            return Plan(0.01, lambda: (127, b"not found\n"))
        match self._mode(argv):
            case Proxy.REFUSING:
                return Plan(self.check_s, lambda: (1, b"do not like it\n"))
            case Proxy.UNDECIDED:
                return Plan(self.check_s, lambda: (-9, b""))
            case Proxy.UNWATCHED:
                return Plan(self.check_s, lambda: (1, UNWATCHED))
        return Plan(self.check_s)

    def server(self, module: str, arguments: Sequence[str]) -> Plan:
        if self.is_fork_refused:
            raise no_memory()
        self.servers.append((module, *arguments))
        return self.server_plan

    def program(self, child: FakeChild, spec: specs.ProcessSpec) -> Plan:
        if self.is_fork_refused:
            raise no_memory()
        self.on_spawn(spec)
        if spec.argv[0] not in self.programs:
            return Plan(0.01, lambda: (127, b"not found\n"))
        mode = self._mode(spec.argv, spec.environment)
        if mode is Proxy.MISSING_MEMORY:
            raise no_memory()
        child.hears = mode not in (Proxy.DEAF, Proxy.HUNG)
        ready_s = {
            Proxy.SLOW: 5.0,
            Proxy.GOOD: 0.2,
            Proxy.DEAF: 0.2,
            Proxy.DRAINED: 0.2,
        }.get(mode, float("inf"))
        self.running = [each for each in self.running if each[0].status is None]
        if len(self.running) > 1:
            raise Bug("three proxies at once")
        if spec.epoch:
            if ended := self._take_over_listeners(child, spec, ready_s):
                return Plan(0.05, lambda: ended)
        elif self.running:
            raise Bug("two proxies at once")
        found = OTHER_CERTS if "15101" in (self._bootstrap(spec.argv) or "") else CERTS
        self._load(None if self.is_wrong_at_start else self.visible(found))
        self.running.append((child, spec, self.clock.monotonic() + ready_s))
        if mode is Proxy.EXITING:
            return Plan(0.1, lambda: (1, b"cannot go on\n"))
        if mode is Proxy.EXITING_UNWATCHED:
            return Plan(0.1, lambda: (1, UNWATCHED))
        if mode is Proxy.CRASHING:
            return Plan(0.1, lambda: (-11, b""))
        return Plan(None)

    def _take_over_listeners(
        self, child: FakeChild, spec: specs.ProcessSpec, ready_s: float
    ) -> Ended | None:
        """Envoy's hot restart: begin it, or say how the new one ends."""
        if not self.running or (self.running[0][1].base_id, self.running[0][1].epoch + 1) != (
            spec.base_id,
            spec.epoch,
        ):
            raise Bug("an Envoy that would wait for ever")
        if self._is_marked:
            return 1, b"previous envoy process is still initializing\n"
        self._is_marked = True
        before = self.running[0][0]

        def hand_over() -> None:
            if child.status is not None or before.status is not None:
                return
            self._is_marked = False
            self._has_taken_over.add(child.pid)
            self.clock.later(spec.shutdown_s, lambda: before.finish(0), is_lasting=before.is_kept)

        if ready_s < float("inf"):
            self.clock.later(ready_s, hand_over, is_lasting=child.is_kept)
        return None

    def behind(self, door: Door) -> Answer:
        for _, spec, ready_at in self.serving:
            if door in spec.doors:
                if self._mode(spec.argv, spec.environment) is Proxy.HUNG:
                    return Answer.SILENT
                is_ready = self.clock.monotonic() >= ready_at
                return Answer.READY if is_ready else Answer.UNREADY
        return Answer.REFUSED

    def outcome(self, expectation: expectations.Expectation) -> expectations.Outcome:
        """Where a packet goes, by what the kernel has: whatever the agent wants it to have."""
        on_link = expectations.Sender.ON_LINK
        is_outbound = expectation.sender not in (expectations.Sender.NEIGHBOUR, on_link)
        is_local = expectation.destination.startswith("127.")
        if self.sends_nothing:
            return expectations.Outcome(errno=101)
        is_lost = ":" in expectation.destination and not self.is_v6_routed
        if is_outbound and not is_local and (is_lost or not self.has_route):
            return expectations.Outcome(errno=101)
        if self.thief is not None and expectation.destination.startswith(self.thief):
            return expectations.Outcome(ELSEWHERE, 80)
        key = packet_of(expectation)
        found = [EXPECTED[name][key] for name in self.rules_of if key in EXPECTED[name]]
        if any(each.is_refused for each in found):
            return expectations.Outcome()
        at = max((each.captured_at for each in found), default=0)
        if expectation.sender is on_link:
            return self._arrival(expectation, at)
        if not at:
            zone = max((each.zone for each in found), default=0)
            return expectations.Outcome(expectation.destination, expectation.port, zone=zone)
        address = "127.0.0.1" if is_outbound and not is_local else expectation.destination
        return expectations.Outcome(address, at, zone=max(each.zone for each in found))

    def _arrival(self, expectation: expectations.Expectation, at: int) -> expectations.Outcome:
        """The firewall of this host lets in every port, or not those of the proxy."""
        open_, dropped = expectations.Fate.ARRIVED, expectations.Fate.DROPPED
        is_shut = self.is_firewall_shut and not self.openings.is_there
        fate = dropped if at and is_shut else open_
        dropper = firewall.Dropper("inet", "filter", "input", base="input")
        passage = firewall.Passage("inet", "filter", "input", 7, base="input")
        arrival = expectations.Arrival(
            fate, open_, "10.1.0.9", "eth0", dropper, passages=(passage,)
        )
        return expectations.Outcome(
            expectation.destination, at or expectation.port, arrival=arrival
        )


def _without_units(table: redirect.TableState) -> redirect.TableState:
    """Leave out the rules that come and go with units: whichever run, it is one configuration."""
    return table._replace(
        chains=tuple(
            chain._replace(
                rules=tuple(
                    rule
                    for rule in chain.rules
                    if rule.comment not in (units.EXCLUDED, units.OTHER)
                )
            )
            for chain in table.chains
        )
    )
