"""What the agent may ask of the machine, as narrow promises that a fake can keep too.

Not here: any implementation. A port is described by what it promises, not by its library. Every
promise here has one contract suite that the real thing and its fake both pass (`tests/contract`).
A descriptor is a number that an `Inbox` can watch, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    # Promises are made of types alone: who is promised little does not load what keeps the rest.
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from ..config import model
    from ..errors import HostAgentError
    from ..redirect import expectations, plan, takeover, xtables
    from ..redirect import model as redirect
    from ..supervise import builds, liveness, specs
    from . import changes, layers, probing, procstate, rtmonitor
    from .answers import looker
    from .processes import User

Event = TypeVar("Event")
Told_co = TypeVar("Told_co", covariant=True)


class Clock(Protocol):
    """Two clocks: one that never jumps, for durations, and one to compare with certificates."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def now(self) -> float:
        """Unix seconds; may jump when somebody sets the clock."""


class Inbox(Protocol[Event]):
    """Where everything that happens arrives."""

    def watch(self, descriptor: int, read: Callable[[], Event | None], /) -> None:
        """Call `read` in `wait` while `descriptor` is readable; its result, if any, is an event.

        `read` must take away what made it readable, or `forget` the descriptor.
        """

    def forget(self, descriptor: int, /) -> None:
        """Stop watching; one that is not watched is fine."""

    def post(self, event: Event, /) -> None:
        """Add an event; from any thread."""

    def wait(self, timeout_s: float | None, /) -> list[Event]:
        """Wait until something happened or the time is over; then it may return nothing."""


class PacketRules(Protocol):
    """The packet rules of this network namespace, whoever keeps them there.

    Whatever is asked for ends in one call of `done`, with an error if need be, in the deciding
    thread: before the method returns, or in a later turn, whose event the back end gives. A look
    (`compare`, `plan`) is bounded in time by the back end; an `install` by its caller.
    """

    @property
    def is_owner(self) -> bool:
        """Whether a stop of the service takes the rules out without us, and only a stop."""

    @property
    def has_socket(self) -> bool:
        """Whether it does so since they belong to a socket of ours (NFT_TABLE_F_OWNER)."""

    def fileno(self) -> int:
        """That socket, for the descriptor store."""

    @property
    def place(self) -> str:
        """Which part of the kernel keeps the rules, and why, for people."""

    @property
    def remark(self) -> str:
        """What an operator should know of that, or nothing."""

    @property
    def is_polled(self) -> bool:
        """Whether nobody tells of changes, so that `has_changed` is to be asked now and then."""

    def has_changed(self) -> bool:
        """Whether anything differs from when it was looked at last, counters aside.

        Raises KernelBusy, NotPermitted.
        """

    def choose(self, wanted: model.BackEnd, /) -> None:
        """Take what a configuration asks for: the first time it counts."""

    def render_guard(self, desired: redirect.Ruleset, /) -> str:
        """Give the guard in `desired` as the text that early boot loads."""

    def install(
        self,
        desired: redirect.Ruleset,
        done: Callable[[plan.Changes | HostAgentError], None],
        /,
    ) -> None:
        """Make the rules equal to `desired`, whole or not at all, and read them back.

        None desired: everything of ours goes. `done` gets what was changed. One at a time.
        """

    def abandon(self) -> None:
        """Give up an `install` under way: its `done` is not called, and it does nothing more."""

    def compare(
        self,
        desired: redirect.Ruleset,
        done: Callable[[tuple[redirect.Drift, ...] | HostAgentError], None],
        /,
    ) -> None:
        """Read the rules; `done` gets where they differ."""

    def plan(
        self,
        desired: redirect.Ruleset,
        done: Callable[[plan.Changes | HostAgentError], None],
        /,
    ) -> None:
        """Read the rules; `done` gets what `install` would change."""

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Give those of `addresses` that are on `lo` now; raises KernelBusy, NotPermitted."""

    def observe_routing(self) -> tuple[redirect.Routing, ...]:
        """Give our routing rules and routes; raises KernelBusy, NotPermitted."""

    def find_native(self, desired: redirect.Ruleset, /) -> redirect.Ruleset | None:
        """Give what of `desired` nf_tables is to hold; None where that is refused to us."""


class Kernel(Protocol):
    """What the reconciler may ask of a packet filter that answers at once."""

    @property
    def is_owner(self) -> bool:
        """Whether what we install belongs to our socket alone (NFT_TABLE_F_OWNER)."""

    def fileno(self) -> int:
        """The socket with which an owned table lives and dies; for the descriptor store."""

    def observe(self) -> redirect.Observed:
        """Everything we own, as it is now; raises KernelBusy, NotPermitted."""

    def apply(self, plan: redirect.Plan) -> None:
        """Make the whole plan true or nothing of it; raises ApplyRejected, NotPermitted."""

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Give those of `addresses` that are on `lo` now; raises KernelBusy, NotPermitted."""

    def observe_routing(self) -> tuple[redirect.Routing, ...]:
        """Give our routing rules and routes; raises KernelBusy, NotPermitted."""


class LegacyTables(Protocol):
    """The legacy tables of this network namespace, and what of ours is beside any table.

    Nothing here makes a table.
    """

    def find_families(self) -> tuple[xtables.Family, ...]:
        """Those of this network namespace."""

    def observe(
        self, family: xtables.Family, wanted: Mapping[str, Sequence[str]], /
    ) -> tuple[xtables.XTable, ...]:
        """Give what is ours in each table; raises KernelBusy, NotPermitted.

        `wanted`: by table, names of chains that count as ours, whoever made them.
        """

    def mark(self) -> None:
        """Remember how the tables are; raises KernelBusy, NotPermitted."""

    def has_changed(self) -> bool:
        """Whether one has changed since `mark`, counters aside; raises as `mark` does."""

    def observe_beside(self) -> redirect.Observed:
        """Give our addresses on `lo` and our routing; raises KernelBusy, NotPermitted."""

    def add_beside(self, plan: redirect.Plan, /) -> None:
        """Add its addresses and routing, all or none; raises ApplyRejected, NotPermitted."""

    def delete_beside(self, plan: redirect.Plan, /) -> None:
        """Take away its addresses and routing; raises ApplyRejected, NotPermitted."""


class Source(Protocol[Told_co]):
    """Something that tells of changes."""

    def fileno(self) -> int:
        """The descriptor; readable when there is something to read."""

    def read(self) -> Told_co:
        """Take what has come; never blocks."""


class Watcher(Protocol):
    """Tells when files change; what it tells arrives as an event."""

    @property
    def last_error(self) -> str:
        """Why some of the files are not watched, or nothing."""

    def mark(self) -> None:
        """Remember how the files look: call it before they are read."""

    def is_stale(self) -> bool:
        """Whether a file has changed since `mark`."""

    def follow(self, paths: Iterable[str]) -> bool:
        """Watch these files and no others; True if something may have changed unseen before."""

    def stop(self) -> None:
        """Watch nothing."""


class Notifier(Protocol):
    """The line to the service manager."""

    def send(self, **fields: str) -> None:
        """Send assignments such as READY="1"."""

    def store(self, name: str, descriptor: int) -> None:
        """Have a descriptor kept over restarts and crashes; raises OSError if it is not taken."""

    def forget(self, name: str) -> None:
        """Have the descriptor of this name kept no longer."""

    @property
    def is_behind(self) -> bool:
        """Whether the manager has not taken everything yet: `flush` a little later."""

    def flush(self) -> None:
        """Send what has not been taken yet."""


class Child(Protocol):
    """A process that was started here. It dies with this process."""

    @property
    def pid(self) -> int:
        """Its number, and that of the process group it leads."""

    @property
    def descriptor(self) -> int:
        """Readable once it has ended."""

    def poll(self) -> int | None:
        """Take the exit status (negative: the signal that ended it); None while it runs."""

    def has_ended(self) -> bool:
        """Whether it has ended, without taking its status."""

    def await_end(self, timeout_s: float) -> None:
        """Wait for the end, at most so many seconds, without taking the status."""

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""

    def signal_group(self, number: int) -> None:
        """Send a signal to its whole group, as long as its status was not taken."""

    def end_group(self) -> None:
        """SIGKILL to its whole group, as long as its status was not taken."""

    def end(self, timeout_s: float) -> int | None:
        """SIGTERM, after `timeout_s` seconds SIGKILL; returns the exit status.

        None: it still runs a second after that, in a wait that no signal ends.
        """


class Run(Protocol):
    """A process whose whole output is wanted at its end."""

    @property
    def child(self) -> Child:
        """The process."""

    def finish(self) -> bytes:
        """Kill it if it still runs, and return the end of what it wrote, fit to be printed.

        Nobody waits for its end.
        """


class Worker(Run, Protocol):
    """A process of ours that answers one request."""

    def result(self) -> Any:
        """Return its answer, a value of `answers`; raises ChildFailed, also if it still runs."""


class Program(Protocol):
    """A process that runs for long, its output passed on."""

    @property
    def child(self) -> Child:
        """The process."""

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that it wrote; also after its end."""


class Processes(Protocol):
    """The one door to other processes."""

    def start_worker(
        self, module: str, request: object, *, user: User | None, channel: int | None = None
    ) -> Worker:
        """Start a worker with its request; raises OSError. `channel`: what it inherits."""

    def start_run(self, argv: Sequence[str], *, user: User) -> Run:
        """Start a program for its output, standard error with it; raises OSError."""

    def start_program(self, spec: specs.ProcessSpec) -> Program:
        """Start a program that runs until it is told to end; raises OSError."""

    def find_held(self, pids: Iterable[int]) -> tuple[int, procstate.Hold]:
        """Give the first of these that is kept from running, and by what; 0 and NONE: none is."""

    def find_children(self, pid: int) -> tuple[int, ...]:
        """Give the pids of the children of a process, as far as they are known."""

    def record(self, pid: int) -> None:
        """Write down which process group is the proxy's; raises OSError."""

    def end_leftover(self) -> int:
        """Kill what is left of the group written down last; says how many processes that was.

        Nobody waits for their end.
        """

    def kill_behind(self, leader: int) -> None:
        """Kill whoever is left of its group: it has ended, and its status is taken."""

    def find_killed(self) -> tuple[int, ...]:
        """Give those killed by the two before that have not ended yet."""

    def describe_stuck(self, pid: int) -> str:
        """Say in words that SIGKILL has not ended a process."""


class Handover(Protocol):
    """Takes the sockets that a worker has made."""

    def fileno(self) -> int:
        """The worker's end, to be inherited."""

    def started(self) -> None:
        """The worker has its end now, or will never have it."""

    def take(self) -> list[Any]:
        """Give all that has come, once the worker has ended, and close our end."""


class Round(Protocol):
    """Probe packets that were sent at once."""

    @property
    def outcomes(self) -> Sequence[expectations.Outcome]:
        """Where each was going, as far as it was seen."""

    def look(self) -> bool:
        """Whether every packet has been seen now; raises KernelBusy, NotPermitted."""

    def close(self) -> None:
        """Look no more."""


class Packets(Protocol):
    """Sends probe packets, from sockets that a worker made once."""

    def open_channel(self) -> Handover:
        """Make the way on which the worker hands them over; raises OSError."""

    def fill(
        self, counts: Mapping[probing.Kind, int], errnos: Sequence[int], made: Sequence[Any], /
    ) -> bool:
        """Take the sockets made for `counts`; False if they are others than asked for."""

    def has(self, counts: Mapping[probing.Kind, int], /) -> bool:
        """Whether there are so many of each kind."""

    def send(self, made: Sequence[expectations.Expectation], /) -> Round:
        """Send one packet for each promise; raises HostAgentError, OSError with none sent."""

    def close(self) -> None:
        """Send no more."""


class Doors(Protocol):
    """Asks loopback ports whether somebody answers, one round at a time."""

    @property
    def is_answered(self) -> bool:
        """Whether every question of the round has its answer."""

    def ask(
        self, doors: Iterable[liveness.Door], answered: Callable[[], object] | None = None, /
    ) -> None:
        """Begin a round, without waiting; one that was open is dropped.

        `answered` is called when all have answered, and its result is an event.
        """

    def look(self) -> dict[liveness.Door, liveness.Answer]:
        """What has been answered until now; SILENT for the rest. The round goes on."""

    def text(self, door: liveness.Door, /) -> bytes:
        """What a door answered last, as far as it was read."""

    def read(self) -> dict[liveness.Door, liveness.Answer]:
        """End the round: what has been answered; SILENT for the rest."""

    def close(self) -> None:
        """Drop the round."""


class HeldPorts(Protocol):
    """Keeps TCP ports from everybody but the proxy's user."""

    @property
    def useless(self) -> Sequence[str]:
        """Names under which the service manager keeps what is of no use."""

    @property
    def ports(self) -> frozenset[int]:
        """Those that nobody else can bind now, at any address."""

    def hold(self, port: int) -> Mapping[str, int]:
        """Hold one; gives its descriptors by the names under which they are to be kept.

        Raises PortTaken, NotPermitted, KernelBusy with nothing more held than before.
        """

    def let_go(self, port: int) -> Sequence[str]:
        """Hold one no longer; gives the names of its descriptors."""

    def find_listening(self, port: int) -> bool | None:
        """Whether the proxy's user, and nobody else, listens there; None: there is no telling."""


class StateFiles(Protocol):
    """The files of the state directory, by name."""

    @property
    def directory(self) -> str:
        """Where they lie, for messages."""

    def has(self, name: str) -> bool:
        """Whether it is there."""

    def read(self, name: str, most: int) -> bytes:
        """Return at most so many bytes of it; raises OSError."""

    def write(self, name: str, data: bytes, *, mode: int) -> None:
        """Write it, whole or not at all, surviving a power cut; raises OSError."""

    def remove(self, name: str) -> bool:
        """Remove it, and say whether it was there; raises OSError."""


class EnvironmentFiles(Protocol):
    """The environment files as they lie on disk."""

    def begin(self, paths: Sequence[str], reader: User, /) -> layers.Begun:
        """Read those that are root's; a worker that runs as `reader` has to read the rest."""


class Sights(Protocol):
    """What is seen of files that lie where this process must not wait."""

    @property
    def is_behind(self) -> bool:
        """Whether there is one at which nobody has looked yet."""

    def remote(self) -> tuple[str, ...]:
        """Those that anybody has asked for."""

    def take(self, paths: Sequence[str], found: Sequence[looker.Sight], /) -> bool:
        """Somebody has looked at these; says whether anything differs from before."""


class CertificateFiles(Protocol):
    """What is seen of certificates and credentials without opening them, and where they lie."""

    def keep_out(self, output_dir: str) -> None:
        """From now on leave what lies in a directory of OUTPUT_CERTS to istio-proxy."""

    def fingerprint(self, path: str) -> object:
        """What changes when a file is written, replaced or opened to others."""

    def has_key(self, output_dir: str) -> bool:
        """Whether a key lies in a directory of OUTPUT_CERTS, or may lie there."""

    def watched(self, output_dir: str) -> tuple[str, ...]:
        """The files to be watched."""

    def look(self, output_dir: str) -> tuple[object, ...]:
        """What changes when one of those to be watched is replaced."""

    def make_store(self, output_dir: str, owner: User) -> str:
        """Return the store of a directory of OUTPUT_CERTS, made if need be; raises OSError."""

    def find_stores(self) -> tuple[tuple[str, str], ...]:
        """Give every store with its directory of OUTPUT_CERTS; raises OSError."""

    def remove_store(self, store: str) -> None:
        """Remove a store that has been emptied; raises OSError."""


class ProxyFiles(Protocol):
    """What of a proxy lies on disk."""

    @property
    def directory(self) -> str:
        """Where everything is written, one place for each network namespace."""

    def is_program(self, path: str) -> bool:
        """Whether a file is there that can be run, as far as is known."""

    def is_known(self, path: str) -> bool:
        """Whether it is known if a file is there."""

    def write(self, built: builds.Build) -> None:
        """Put everything in its place; raises OSError."""

    def remove_others(self, kept: Collection[builds.Build]) -> None:
        """Remove what was made for an Envoy and none of these uses; raises OSError."""


class Machine(Protocol):
    """The facts of this host that come and go."""

    def look_again(
        self, known: model.HostFacts, towards: model.Address | None = None, /
    ) -> model.HostFacts:
        """Give the same facts with addresses, routes and IPv6 as they are now."""

    def read_files_again(self, known: model.HostFacts, /) -> model.HostFacts:
        """Give the same facts with name servers, users and groups as files say now.

        Of what they do not say, what is known stays.
        """

    def probe_ssh_ports(self) -> tuple[int, ...]:
        """Give the ports on which an ssh daemon listens now, or may, and always 22."""

    def find_address(self, host: str, /) -> model.Address | None:
        """Give the address that a name stands for, if this host knows it by itself."""


class Caller(Protocol):
    """Somebody who has asked for something and gets one answer."""

    @property
    def request(self) -> dict[str, Any]:
        """What is asked."""

    def answer(self, value: dict[str, Any]) -> None:
        """Give the answer; one who has gone away is no error."""

    def hang_up(self) -> None:
        """Let go without an answer."""


class Ports(NamedTuple):
    """Everything that the parts of one agent need of the machine."""

    clock: Clock
    inbox: Inbox[Any]
    rules: PacketRules
    changes: Source[tuple[changes.Change, ...]]
    network: Source[rtmonitor.Change]
    watcher: Watcher
    notifier: Notifier
    packets: Packets
    processes: Processes
    doors: Doors
    held: HeldPorts
    state: StateFiles
    environment: EnvironmentFiles
    sights: Sights
    certificates: CertificateFiles
    proxy: ProxyFiles
    machine: Machine
    jitter: Callable[[], float]
    # A value that differs when rules of legacy tables come or go; takes no time, raises nothing.
    legacy_rules: Callable[[], object]
    # Where Istio's scripts may have left rules; takes no time, raises KernelBusy, NotPermitted.
    istio_rules: Callable[[], tuple[takeover.Part, ...]]
