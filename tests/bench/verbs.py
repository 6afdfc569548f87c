"""The verbs as people run them: fresh processes, beside istio-iptables in its three modes.

Every contestant has a namespace of its own in each round and goes through the same four states:
rules on a clean host, the same once more, changed ones, none. In its iptables mode istio-iptables
uses legacy tables or those of nf_tables. nft(8) and iptables-restore(8) are there with rules that
are made already (`restore`).
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import netns

from . import budgets, cost, files, istio, place, restore, rows

STATES = ("apply", "apply-unchanged", "apply-changed", "clean")
KEYS = (*STATES, *(f"{state}-cpu" for state in STATES), "apply-root", "verify")
ROUNDS = 13
VERIFY_ROUNDS = 7
_MODES = {f"istio-iptables, iptables mode, {kind}": kind for kind in restore.KINDS}
_RESTORE = {f"iptables-{kind}-restore, rules made before, IPv4": kind for kind in restore.KINDS}
_NFT = "nft -f, rules made before"
_PEERS = (budgets.NFTABLES_MODE, *_MODES, _NFT, *_RESTORE)
_BARE = "python3 -c pass"

_Costs = defaultdict[str, list[cost.Cost]]


@dataclass(frozen=True)
class _Contestant:
    """A way to install rules: one call for each state, and a command that finds the rules."""

    calls: Mapping[str, Callable[[], cost.Cost]]
    show: tuple[str, ...]


def measure(programs: istio.Programs | rows.Missing) -> rows.Outcomes:
    """All rows of KEYS. Raises NotMeasured, LabError."""
    with files.Files(files.STANDARD) as packaged:
        with files.Files(files.STANDARD, is_root_only=True) as root_only:
            contestants = {"packaged": _ours(packaged), "root": _ours(root_only)}
            contestants[_NFT] = _of_nft(restore.write_nft(packaged.directory))
            if not isinstance(programs, rows.Missing):
                contestants |= _theirs(programs)
                for name, kind in _RESTORE.items():
                    texts = restore.write_iptables(programs, kind, packaged.directory)
                    contestants[name] = _of_restore(kind, texts)
            costs = _rounds(contestants)
        with _host() as host:
            verify = host.inside(lambda: _verify(packaged))
    outcomes: dict[str, rows.Result | rows.Missing] = {"verify": verify}
    for state in STATES:
        outcomes[state] = _beside(costs, state, programs, _wall)
        outcomes[f"{state}-cpu"] = _beside(costs, state, programs, _cpu)
    bare = {_BARE: _wall(costs["bare"])}
    outcomes["apply-root"] = rows.make_result(_wall(costs["root apply"]), bare)
    return outcomes


def _wall(costs: Sequence[cost.Cost]) -> list[float]:
    return [each.wall_ms for each in costs]


def _cpu(costs: Sequence[cost.Cost]) -> list[float]:
    return [each.cpu_ms for each in costs]


def _ours(layout: files.Files) -> _Contestant:
    def run(*words: str) -> cost.Cost:
        return cost.run([layout.program, *words], layout.environment)

    def change() -> cost.Cost:
        layout.write_cluster(files.CHANGED)
        try:
            return run("apply", "--quiet")
        finally:
            layout.write_cluster(files.STANDARD)

    return _Contestant(
        {
            "apply": lambda: run("apply", "--quiet"),
            "apply-unchanged": lambda: run("apply", "--quiet"),
            "apply-changed": change,
            "clean": lambda: run("clean"),
        },
        (cost.NFT, "list", "table", "inet", "istio_hostagent"),
    )


def _theirs(programs: istio.Programs) -> dict[str, _Contestant]:
    def call(keys: Mapping[str, str], *extra: str) -> Callable[[], cost.Cost]:
        return lambda: cost.run(istio.rules_argv(programs, keys, *extra))

    def calls(*mode: str, change: str) -> dict[str, Callable[[], cost.Cost]]:
        return {
            "apply": call(files.STANDARD, *mode),
            "apply-unchanged": call(files.STANDARD, *mode),
            "apply-changed": call(files.CHANGED, *mode, change),
            "clean": call(files.CHANGED, *mode, "--cleanup-only"),
        }

    return {
        budgets.NFTABLES_MODE: _Contestant(
            # It replaces what is there unasked.
            calls(istio.NFTABLES, change=istio.NFTABLES),
            (cost.NFT, "list", "table", "inet", "istio-proxy-nat"),
        ),
        **{
            name: _Contestant(
                calls(*istio.iptables_mode(kind), change="--reconcile"), _shown(kind)
            )
            for name, kind in _MODES.items()
        },
    }


def _shown(kind: str) -> tuple[str, ...]:
    return (f"/usr/sbin/iptables-{kind}", "-t", "nat", "-S", "ISTIO_OUTPUT")


def _of_nft(texts: restore.Texts) -> _Contestant:
    return _Contestant(
        _calls_of(texts, lambda file: [cost.NFT, "-f", str(file)]),
        (cost.NFT, "list", "table", "inet", "istio_hostagent"),
    )


def _of_restore(kind: str, texts: restore.Texts) -> _Contestant:
    return _Contestant(
        _calls_of(texts, lambda file: restore.restore_argv(kind, file)), _shown(kind)
    )


def _calls_of(
    texts: restore.Texts, argv: Callable[[Path], list[str]]
) -> dict[str, Callable[[], cost.Cost]]:
    """Each state is a file."""
    states = zip(STATES, (texts.standard, texts.standard, texts.changed, texts.none), strict=True)
    return {state: lambda file=file: cost.run(argv(file)) for state, file in states}  # type: ignore[misc]


def _rounds(contestants: Mapping[str, _Contestant]) -> _Costs:
    """What each state took, by contestant and state."""
    costs: _Costs = defaultdict(list)
    for number in range(ROUNDS + 1):
        for name, contestant in contestants.items():
            with _host() as host:
                found = host.inside(lambda each=contestant: _states(each))  # type: ignore[misc]
            for state, taken in found.items() if number else ():
                costs[f"{name} {state}"].append(taken)
        bare = cost.run([cost.PYTHON, "-c", "pass"])
        costs["bare"] += [bare] if number else []
    return costs


def _states(contestant: _Contestant) -> dict[str, cost.Cost]:
    found = {}
    for state, call in contestant.calls.items():
        found[state] = call()
        if state == "apply":
            cost.run(contestant.show)  # raises if nothing was installed
    return found


def _verify(layout: files.Files) -> rows.Result | rows.Missing:
    """A run that finds something wrong ends with status 1, and spoils only this row."""
    pyroute2 = [cost.PYTHON, "-c", "import pyroute2"]
    ours: list[float] = []
    imports: list[float] = []
    try:
        cost.run([layout.program, "apply", "--quiet"], layout.environment)
        for _ in range(VERIFY_ROUNDS):
            ours.append(cost.run([layout.program, "verify"], layout.environment).wall_ms)
            imports.append(cost.run(pyroute2).wall_ms)
    except cost.NotMeasured as error:
        return rows.Missing(str(error))
    return rows.make_result(ours, {"python3 -c 'import pyroute2'": imports})


@contextlib.contextmanager
def _host() -> Iterator[netns.Namespace]:
    """A host with an address and a way to everywhere, without rules."""
    with netns.Namespace("bench") as host, netns.Namespace("network") as network:
        netns.link(network, host, "10.99.0.1/24", "10.99.0.2/24")
        host.ip("route", "add", "default", "via", "10.99.0.1")
        yield host
        place.forget(host)


def _beside(
    costs: _Costs,
    state: str,
    programs: istio.Programs | rows.Missing,
    take: Callable[[Sequence[cost.Cost]], list[float]],
) -> rows.Result:
    peers: dict[str, list[float] | rows.Missing] = {
        name: programs
        if isinstance(programs, rows.Missing) and name != _NFT
        else take(costs[f"{name} {state}"])
        for name in _PEERS
    }
    return rows.make_result(take(costs[f"packaged {state}"]), peers)
