"""Legacy tables, changed through python-iptables: read back equal, and nobody else's touched.

Each trap of the library has a test here (`host.xtlibrary`).
"""

import contextlib
import errno
import fcntl
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from istio_hostagent.agent import legacy as rules
from istio_hostagent.agent import legacyworkers
from istio_hostagent.agent.oneshot import kernel
from istio_hostagent.agent.oneshot import legacy as at_once
from istio_hostagent.config.model import Redirection
from istio_hostagent.errors import ApplyRejected, HostAgentError, KernelBusy
from istio_hostagent.host import legacytables, processes, xtentries, xtkernel
from istio_hostagent.redirect import model, policy, xtables, xtrender
from istio_hostagent.redirect.xtables import Condition, Family, XChain, XRule, XTable
from tests.lab import netns, servers
from tests.lab.host import CHECKOUT, PYTHON
from tests.netns import rig as rigs
from tests.netns.rig import APP, FACTS, Rig
from tests.unit.samples import ALL, CASES, STANDARD, cidrs

COMMANDS = {family: family.value for family in Family}
LOCK = Path("/run/xtables.lock")
NOTHING = model.Ruleset()


@pytest.fixture
def space() -> Iterator[netns.Namespace]:
    """A host in which nobody has used a legacy table yet."""
    with netns.Namespace("legacy") as made:
        yield made


def desired(redirection: Redirection) -> model.Ruleset:
    return policy.build_ruleset(redirection, FACTS)


def ask(space: netns.Namespace, method: str, wanted: model.Ruleset) -> Any:
    return space.inside(lambda: kernel.ask(getattr(at_once.make(), method), wanted))


def save(space: netns.Namespace, family: Family = Family.V4) -> str:
    return space.run([f"{family.value}-save"], check=True).stdout


def content(space: netns.Namespace, family: Family = Family.V4) -> list[str]:
    """What is there, without counters, comments of the tool, and policies."""
    return [
        re.sub(r" \[\d+:\d+\]", "", line)
        for line in save(space, family).splitlines()
        if line[0] != "#"
    ]


def tables_of(space: netns.Namespace) -> set[str]:
    names = ("ip_tables_names", "ip6_tables_names")
    found = space.run(["cat", *(f"/proc/net/{name}" for name in names)]).stdout
    return set(found.split())


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_reads_back_equal(space: netns.Namespace, case: str) -> None:
    wanted = desired(CASES[case])
    planned = ask(space, "plan", wanted)
    done = ask(space, "install", wanted)
    assert list(planned.lines) == list(done.lines)
    assert ask(space, "compare", wanted) == ()
    again = ask(space, "install", wanted)
    assert (again.is_any, list(again.lines)) == (False, [])


def test_one_configuration_follows_another_and_nothing_is_left(space: netns.Namespace) -> None:
    for case in (*CASES, "standard", "nothing"):
        wanted = desired(CASES[case])
        ask(space, "install", wanted)
        assert ask(space, "compare", wanted) == ()
    ask(space, "install", NOTHING)
    for family in Family:
        assert [line for line in content(space, family) if "ISTIO" in line or "-A" in line] == []
    assert "::6" not in space.ip("address", "show", "dev", "lo")


def test_no_table_is_made_that_is_not_needed(space: netns.Namespace) -> None:
    """The library opens every table that there could be when it asks for a chain."""
    ask(space, "install", NOTHING)
    ask(space, "compare", desired(STANDARD))
    assert tables_of(space) == set()
    ask(space, "install", desired(STANDARD))
    assert tables_of(space) == {"mangle", "filter", "nat"}


FOREIGN = """*{table}
:FOREIGN - [0:0]
-A OUTPUT -d 198.51.100.1/32 -j FOREIGN
-A FOREIGN -p tcp -m tcp --dport 1 -m comment --comment "somebody's \\"own\\"" -j RETURN
-A FOREIGN -m mark --mark 0x7/0xff -m statistic --mode random --probability 0.5 -j RETURN
COMMIT
"""


def test_what_others_have_is_left_as_it_is(space: netns.Namespace) -> None:
    """Also what our decoder and the library cannot name, and what is in built-in chains."""
    text = "".join(FOREIGN.format(table=table) for table in xtables.TABLES)
    space.run(["iptables-legacy-restore"], stdin=text, check=True)
    before = content(space)
    for wanted in (desired(STANDARD), desired(ALL), NOTHING):
        ask(space, "install", wanted)
        assert ask(space, "compare", wanted) == ()
        kept = [line for line in content(space) if "ISTIO" not in line]
        assert kept == before


def without_comments(line: str) -> str:
    return re.sub(r' -m comment --comment "[^"]*"', "", line)


MUTATIONS: Mapping[str, Callable[[list[str], int], list[str]]] = {
    "removed": lambda lines, at: lines[:at] + lines[at + 1 :],
    "twice": lambda lines, at: lines[: at + 1] + lines[at:],
    "swapped": lambda lines, at: [*lines[:at], *reversed(lines[at : at + 2]), *lines[at + 2 :]],
    "without a comment": lambda lines, at: [
        *lines[:at],
        without_comments(lines[at]),
        *lines[at + 1 :],
    ],
    "of another port": lambda lines, at: changed(lines, at, r"(?<=port )(\d+)", "7"),
    "of other ports": lambda lines, at: changed(lines, at, r"(?<=ports )(\d+)", "7"),
    "of another user": lambda lines, at: changed(lines, at, r"(?<=owner )(\d+)", "7"),
    "of a group": lambda lines, at: changed(lines, at, "--uid-owner", "--gid-owner"),
    "of another network": lambda lines, at: changed(lines, at, r"/\d+ ", "/7 "),
    "of another address": lambda lines, at: changed(lines, at, r"-d \d+", "-d 7"),
    "from where it went to": lambda lines, at: changed(lines, at, " -d ", " -s "),
    "of another interface": lambda lines, at: changed(lines, at, "-o lo", "-o eth7"),
    "by other flags": lambda lines, at: changed(lines, at, "RST,ACK SYN", "RST,ACK FIN"),
    "in another state": lambda lines, at: changed(lines, at, "DNAT", "SNAT"),
    "of another type": lambda lines, at: changed(lines, at, "type LOCAL", "type BROADCAST"),
    "negated": lambda lines, at: changed(lines, at, "(-d |--dport |--dst-type )", r"! \1"),
    "not negated": lambda lines, at: changed(lines, at, "! ", ""),
    "with a jump": lambda lines, at: changed(lines, at, "-g ISTIO", "-j ISTIO"),
    "without a jump back": lambda lines, at: changed(lines, at, "-j ISTIO", "-g ISTIO"),
    "with another verdict": lambda lines, at: changed(lines, at, "-j (RETURN|DROP)", "-j ACCEPT"),
    "with another reset": lambda lines, at: changed(
        lines, at, "tcp-reset", "icmp-port-unreachable"
    ),
    "with another mapping": lambda lines, at: changed(
        lines, at, "--to 0.0.0.0/0", "--to 10.0.0.0/8"
    ),
    "with a mark more": lambda lines, at: changed(
        lines, at, " -m comment", " -m mark --mark 1 -m comment"
    ),
}


def changed(lines: list[str], at: int, pattern: str, by: str) -> list[str]:
    return [*lines[:at], re.sub(pattern, by, lines[at], count=1), *lines[at + 1 :]]


def test_every_change_of_every_rule_is_found(space: netns.Namespace) -> None:
    """Kinds of changes times rules; each goes in as a whole with iptables-legacy-restore."""
    wanted = desired(STANDARD)
    ask(space, "install", wanted)
    whole = save(space)
    lines = whole.splitlines()
    tried: dict[str, int] = dict.fromkeys(MUTATIONS, 0)
    for at, line in enumerate(lines):
        if not line.startswith("-A"):
            continue
        for kind, mutate in MUTATIONS.items():
            mutant = mutate(lines, at)
            is_last = not lines[at + 1].startswith(f"-A {line.split()[1]} ")
            if mutant == lines or (kind == "swapped" and is_last):
                continue
            text = "\n".join(mutant) + "\n"
            if space.run(["iptables-legacy-restore"], stdin=text).returncode:
                continue  # the kernel takes no such rule
            tried[kind] += 1
            assert ask(space, "compare", wanted), (kind, line)
    assert not [kind for kind, count in tried.items() if not count]
    space.run(["iptables-legacy-restore"], stdin=whole, check=True)
    assert ask(space, "compare", wanted) == ()


@pytest.mark.parametrize(
    "command",
    [
        "-t nat -F OUTPUT",
        "-t nat -F ISTIO_OUTPUT",
        "-t nat -I OUTPUT -p tcp -j ACCEPT",
        "-t nat -A ISTIO_OUTPUT -j RETURN",
        "-t nat -N ISTIO_SET_77",
        "-t mangle -F",
        "-t filter -I ISTIO_GUARD -j RETURN",
    ],
)
def test_what_somebody_does_is_found_and_put_right(space: netns.Namespace, command: str) -> None:
    wanted = desired(STANDARD)
    ask(space, "install", wanted)
    before = content(space)
    space.run(["iptables-legacy", *command.split()], check=True)
    assert ask(space, "compare", wanted)
    assert ask(space, "install", wanted).is_any
    assert ask(space, "compare", wanted) == ()
    foreign = ["-A OUTPUT -p tcp -j ACCEPT"] if "ACCEPT" in command else []
    assert sorted(content(space)) == sorted(before + foreign)


# -- the traps of the library --------------------------------------------------------------------


def work(space: netns.Namespace, *steps: XTable, lock_s: float = 5.0) -> Any:
    """Ask the worker, and give its answer."""
    request = {
        "family": Family.V4.value,
        "steps": [xtables.to_json(step) for step in steps],
        "lock_s": lock_s,
    }
    found: list[Any] = []
    space.inside(lambda: at_once._work(request, found.append))
    return found[0]


def one_rule(table: str, rule: XRule) -> XTable:
    head = XRule((), "ISTIO_OUTPUT", comment=xtables.MARK)
    chains = (XChain("ISTIO_OUTPUT", (rule,)), XChain("OUTPUT", (head,), True))
    return XTable(table, chains)


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ("nat", XRule((), "REJECT", (("--reject-with", "tcp-reset"),))),  # not in this table
        ("filter", XRule((), "REJECT", (("--reject-with", "tcp-reset"),))),  # not without TCP
        ("filter", XRule((), "REDIRECT", (("--to-ports", "15001"),))),
        ("filter", XRule((Condition("nomatch", "--what", "1"),), "DROP")),
        ("filter", XRule((Condition("owner", "--uid-owner", "nobody-here"),), "DROP")),
        ("filter", XRule((Condition("", "-d", "10.0.0.300/8"),), "DROP")),
        ("filter", XRule((Condition("", "-o", "a-name-that-is-too-long"),), "DROP")),
        ("filter", XRule((), "NO_SUCH_CHAIN")),
        (
            "filter",
            XRule((Condition("", "-p", "tcp"), Condition("tcp", "--dport", "99999")), "DROP"),
        ),
    ],
)
def test_what_the_kernel_or_the_library_refuses_is_an_error_and_changes_nothing(
    space: netns.Namespace, table: str, rule: XRule
) -> None:
    """The library swallows what the kernel refuses, and makes wider rules of bad values."""
    answer = work(space, one_rule(table, rule))
    assert isinstance(answer, HostAgentError) or answer.error is not None
    assert [line for line in content(space) if line.startswith("-A")] == []


def test_a_change_between_two_commits_is_looked_at_anew(space: netns.Namespace) -> None:
    """After a commit the library's copy of a table is of no use: the next one is refused."""
    first = one_rule("filter", XRule((), "RETURN", comment=xtables.MARK))
    second = one_rule("filter", XRule((), "DROP", comment=xtables.MARK))
    answer = work(space, first, second, first, second)
    assert answer.error is None
    assert any("-j DROP" in line for line in content(space))


def test_who_holds_the_lock_is_waited_for_and_named(space: netns.Namespace) -> None:
    """The library takes no lock."""
    step = one_rule("filter", XRule((), "RETURN", comment=xtables.MARK))
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(0.5, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        begun = time.monotonic()
        timer.start()
        assert work(space, step).error is None
        assert time.monotonic() - begun >= 0.5
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The lock is that of the whole machine: others wait for it.
        answer = work(space, step, lock_s=0.2)
        assert answer.error is not None and answer.error.code == KernelBusy.code
        assert "fuser" in answer.error.hint


def test_what_others_write_without_the_lock_is_not_lost(space: netns.Namespace) -> None:
    """Whoever replaces a rule between the library's look and its commit is reverted by it."""
    own_lock = space.name + ".lock"
    space.run(["iptables-legacy-restore"], stdin=FOREIGN.format(table="nat"), check=True)
    is_over = threading.Event()
    written = [0]

    def write() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            argv = ["iptables-legacy", "-t", "nat", "-R", "FOREIGN", "1", "-j", "RETURN"]
            argv += ["-d", f"10.0.{number // 250}.{number % 250 + 1}"]
            done = space.run(argv, env={"XTABLES_LOCKFILE": f"/tmp/{own_lock}"})
            if done.returncode == 0:
                written[0] = number
                shown = space.run(["iptables-legacy", "-t", "nat", "-S", "FOREIGN", "1"]).stdout
                assert argv[-1] in shown

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for index in range(12):
            with contextlib.suppress(HostAgentError):  # somebody is faster, every time
                ask(space, "install", desired((STANDARD, ALL)[index % 2]))
    finally:
        is_over.set()
        writer.join()
        Path(f"/tmp/{own_lock}").unlink(missing_ok=True)
    assert written[0] > 10
    last = f"10.0.{written[0] // 250}.{written[0] % 250 + 1}/32"
    assert [line for line in content(space) if last in line and "FOREIGN" in line]


def test_what_one_family_refuses_is_taken_back_in_the_other(space: netns.Namespace) -> None:
    def start(request: Mapping[str, Any], done: legacyworkers.Answer) -> Callable[[], None]:
        is_v6 = request["family"] == Family.V6.value
        bad = one_rule("nat", XRule((), "REJECT", (("--reject-with", "tcp-reset"),)))
        if is_v6 and not tampered:
            tampered.append(True)
            request = {**request, "steps": [*request["steps"], xtables.to_json(bad)]}
        return at_once._work(request, done)

    ask(space, "install", desired(STANDARD))
    before = {family: content(space, family) for family in Family}
    tampered: list[bool] = []

    def act() -> None:
        kernel.ask(rules.LegacyRules(xtkernel.LegacyTables(), start).install, desired(ALL))

    with pytest.raises(ApplyRejected, match="ip6tables-legacy table nat"):
        space.inside(act)
    assert {family: content(space, family) for family in Family} == before


class _Meddled(xtkernel.LegacyTables):
    """Tables that somebody changes as soon as they have been read back."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        super().__init__()
        self._meddle = meddle
        self._looks = 0

    def observe_beside(self) -> model.Observed:
        self._looks += 1
        if self._looks == 2:  # the first one is for the plan
            self._meddle()
        return super().observe_beside()


def test_a_jump_of_somebody_elses_chain_keeps_none_of_ours_from_going(
    space: netns.Namespace,
) -> None:
    """As an operator puts one into DOCKER-USER; what else is there stays."""
    space.run(["iptables-legacy-restore"], stdin=FOREIGN.format(table="nat"), check=True)
    foreign = rules_of(content(space))
    ask(space, "install", desired(STANDARD))
    for target in ("ISTIO_OUTPUT", "ISTIO_REDIRECT"):
        words = ["iptables-legacy", "-t", "nat", "-I", "FOREIGN", "1", "-p", "tcp", "-j", target]
        space.run(words, check=True)
    ask(space, "install", desired(ALL))
    ask(space, "install", NOTHING)
    assert rules_of(content(space)) == foreign


def rules_of(lines: list[str]) -> list[str]:
    """Without tables and built-in chains, which stay."""
    return [line for line in lines if line.startswith("-A") or line.endswith(" -")]


def count_calls(act: Callable[[], object]) -> int:
    """How many functions of Python this calls: what takes time, and is the same every time."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls


def test_what_rules_of_others_say_is_not_read(space: netns.Namespace) -> None:
    """There may be tens of thousands, and the agent looks at its own again and again."""
    rule = "-A FOREIGN -s 10.0.0.0/8 -p tcp -m tcp --dport 1:9 -m mark --mark 7 -j RETURN\n"
    text = FOREIGN.format(table="nat").replace("COMMIT", f"{rule * 500}COMMIT")
    space.run(["iptables-legacy-restore"], stdin=text, check=True)

    def act() -> tuple[int, int, int, XTable]:
        before = legacytables.fetch(socket.AF_INET, "nat")
        without = count_calls(lambda: xtentries.read_own(Family.V4, "nat", before, ["ISTIO_X"]))
        kernel.ask(at_once.make().install, desired(STANDARD))
        now = legacytables.fetch(socket.AF_INET, "nat")
        own = count_calls(lambda: xtentries.read_own(Family.V4, "nat", now, ()))
        everything = count_calls(lambda: xtentries.read(Family.V4, now))
        return without, own, everything, xtentries.read_own(Family.V4, "nat", now, ())

    without, own, everything, found = space.inside(act)
    assert without < 10 and own < everything / 2
    assert found == xtrender.render(desired(STANDARD), Family.V4)[xtables.TABLES.index("nat")]


def test_who_changes_a_table_right_behind_the_look_is_noticed(space: netns.Namespace) -> None:
    def meddle() -> None:
        words = ["iptables-legacy", "-t", "nat", "-F", "ISTIO_OUTPUT"]
        space.run(words, check=True)

    def act() -> bool:
        tables = _Meddled(meddle)
        kernel.ask(rules.LegacyRules(tables, at_once._work).install, desired(STANDARD))
        return tables.has_changed()

    assert space.inside(act)


class _Stuck(xtkernel.LegacyTables):
    """Addresses and routing that the kernel does not take away."""

    def delete_beside(self, plan: model.Plan) -> None:
        raise ApplyRejected("refused", step="delete", errno=errno.EBUSY)


def test_tables_come_back_also_where_what_is_beside_them_does_not(space: netns.Namespace) -> None:
    ask(space, "install", desired(STANDARD))
    before = {family: content(space, family) for family in Family}
    tampered: list[bool] = []

    def start(request: Mapping[str, Any], done: legacyworkers.Answer) -> Callable[[], None]:
        if request["family"] == Family.V6.value and not tampered:
            tampered.append(True)
            bad = one_rule("nat", XRule((), "REJECT", (("--reject-with", "tcp-reset"),)))
            request = {**request, "steps": [*request["steps"], xtables.to_json(bad)]}
        return at_once._work(request, done)

    def act() -> None:
        kernel.ask(rules.LegacyRules(_Stuck(), start).install, desired(ALL))

    with pytest.raises(ApplyRejected, match="ip6tables-legacy table nat"):
        space.inside(act)
    assert {family: content(space, family) for family in Family} == before


def test_a_killed_worker_leaves_what_the_next_one_puts_right(space: netns.Namespace) -> None:
    """SIGKILL at any moment; each table is as before or as wanted, and others' are untouched."""
    space.run(["iptables-legacy-restore"], stdin=FOREIGN.format(table="nat"), check=True)
    foreign = content(space)
    for index in range(20):
        wanted = desired((STANDARD, ALL)[index % 2])

        def kill_in(seconds: float) -> legacyworkers.Start:
            def start(
                request: Mapping[str, Any], done: legacyworkers.Answer
            ) -> Callable[[], None]:
                worker = processes.Worker(legacyworkers.WORKER, request, user=None)
                worker.child.await_end(seconds)
                worker.child.signal(signal.SIGKILL)
                worker.child.await_end(5.0)
                with contextlib.suppress(HostAgentError):
                    worker.result()
                done(KernelBusy("killed"))
                return lambda: None

            return start

        def act(pause_s: float = 0.12 + index * 0.01, wanted: model.Ruleset = wanted) -> None:
            made = rules.LegacyRules(xtkernel.LegacyTables(), kill_in(pause_s))
            with contextlib.suppress(HostAgentError):
                kernel.ask(made.install, wanted)

        space.inside(act)
        ask(space, "install", wanted)
        assert ask(space, "compare", wanted) == ()
        assert [line for line in content(space) if "FOREIGN" in line] == [
            line for line in foreign if "FOREIGN" in line
        ]


def test_counters_alone_are_no_change(space: netns.Namespace) -> None:
    ask(space, "install", desired(STANDARD))

    def act() -> tuple[bool, bool]:
        tables = xtkernel.LegacyTables()
        tables.mark()
        space.run(["ping", "-c1", "-W1", "127.0.0.1"])
        first = tables.has_changed()
        space.run(["iptables-legacy", "-t", "nat", "-R", "ISTIO_IN_REDIRECT", "1", "-j", "RETURN"])
        return first, tables.has_changed()

    assert space.inside(act) == (False, True)


# -- under traffic -------------------------------------------------------------------------------


def test_replacing_the_rules_lets_no_connection_around(rig: Rig, served: rigs.Servers) -> None:
    rulesets = [
        desired(each)
        for each in (STANDARD, Redirection(outbound=cidrs("10.96.0.0/12", "fd00:10::/64")))
    ]
    before = served.neighbour.accepted()
    rig.ask_legacy("install", rulesets[1])
    flows = [
        servers.Traffic(rig.host, rigs.target(each, 80), needle=each, interval_s=0.0, user=APP)
        for each in ("10.96.0.5", "fd00:10::5")
    ]
    with flows[0], flows[1]:
        for index in range(30):
            rig.ask_legacy("install", rulesets[index % 2])
        tallies = [flow.stop() for flow in flows]
    rig.clean()
    for tally in tallies:
        assert tally.failed == 0, tally.failures
        assert tally.made > 50
    assert served.neighbour.accepted() == before


SIZES = """
import ctypes
from istio_hostagent.errors import HostUnsupported
from istio_hostagent.host import xtlibrary
texts = [ctypes.create_string_buffer(text, 16) for text in (b"src-type", b"dst-type")]
def find(size):
    memory = ctypes.create_string_buffer(256)
    for number, text in enumerate(texts):
        ctypes.c_void_p.from_buffer(memory, number * size).value = ctypes.addressof(text)
    try:
        return xtlibrary._find_size(ctypes.addressof(memory), (b"src-type", b"dst-type"))
    except HostUnsupported:
        return None
print([find(size) for size in (48, 56, 64, 96)])
"""


def test_options_are_found_whatever_libxtables_has_behind_them() -> None:
    """In Debian 13 they are longer than the library believes, and it finds the first one alone."""
    argv = [PYTHON, "-c", SIZES]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "[48, 56, 64, None]\n"
