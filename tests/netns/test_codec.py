"""Our codec against the kernel, against nft(8), and against pyroute2."""

import contextlib
import functools
import gc
import os
import re
import signal
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.agent import reconcile
from istio_hostagent.errors import ApplyRejected, KernelBusy, NotPermitted
from istio_hostagent.host import nftables, transactions
from istio_hostagent.host.nfnetlink import connection, expressions, framing, messages
from istio_hostagent.redirect import drift, exchange, model, nft, plan, policy
from istio_hostagent.redirect import expressions as compiling
from tests.lab.host import CHECKOUT, PYTHON
from tests.netns import rig as rigs
from tests.netns.rig import Rig
from tests.unit.samples import ALL, CASES, FACTS, STANDARD, cidrs

GOLDENS = sorted((Path(__file__).parents[1] / "golden" / "cases").glob("*.nft"))
DESIRED = policy.build_ruleset(STANDARD, FACTS)


@pytest.fixture
def kernel(rig: Rig) -> Iterator[nftables.NftKernel]:
    with rig.kernel() as made:
        yield made
        rig.apply(made, model.Ruleset())


def drifts(rig: Rig, kernel: nftables.NftKernel, desired: model.Ruleset = DESIRED) -> list[str]:
    return [str(each) for each in drift.find_drift(desired, rig.observe(kernel))]


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_kernel_gives_back_every_byte_of_every_rule(
    rig: Rig, kernel: nftables.NftKernel, case: str
) -> None:
    """Counters are written as zero and read as zero: no packet comes here."""
    desired = policy.build_ruleset(CASES[case], FACTS)
    rig.apply(kernel, desired)
    assert drifts(rig, kernel, desired) == []
    link = rig.host.inside(connection.Connection)
    with contextlib.closing(link.socket):
        for table in desired.tables:
            dumped: dict[str, list[bytes]] = {}
            for body in link.dump(messages.GETRULE, framing.pack_text(1, table.name)):
                found = framing.read(body)
                dumped.setdefault(framing.text(found[2]), []).append(found[4])
            for chain in compiling.compile_table(table, model.Owner.NOBODY).chains:
                sent = [expressions.encode_expressions(rule.expressions) for rule in chain.rules]
                assert dumped.get(chain.name, []) == sent


@pytest.mark.parametrize("case", sorted(CASES))
def test_nft_makes_the_same_of_our_text_and_pyroute2_reads_the_same(
    rig: Rig, kernel: nftables.NftKernel, case: str
) -> None:
    desired = policy.build_ruleset(CASES[case], FACTS)
    for text in map(nft.render_nft, desired.tables):
        rig.nft(text=text)
    tables = model.Ruleset(desired.tables)
    assert drifts(rig, kernel, tables) == []
    answer = rig.worker("second_reader", {})
    assert drift.find_drift(tables, exchange.from_json(answer["observed"])) == ()


def test_another_version_of_pyroute2_reads_the_same(rig: Rig, kernel: nftables.NftKernel) -> None:
    where = os.environ.get("HOSTAGENT_OTHER_PYROUTE2", "")
    if not Path(where, "pyroute2").is_dir():
        pytest.skip("HOSTAGENT_OTHER_PYROUTE2 names no directory with another pyroute2")
    for desired in (DESIRED, policy.build_ruleset(CASES["very-many"], FACTS)):
        rig.apply(kernel, desired)
        answer = rig.worker("second_reader", {}, PYTHONPATH=where)
        assert drift.find_drift(desired, exchange.from_json(answer["observed"])) == ()


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)
def test_nft_accepts_every_golden(rig: Rig, golden: Path) -> None:
    # It takes no number of a control group, only the path of one that is there.
    text = re.sub("socket cgroupv2 level [0-9] [0-9]+ ", "", golden.read_text())
    rig.nft("-c", "-f", "-", text=text)


def test_rules_that_always_differ_do_not_fill_the_memory() -> None:
    """What is remembered of old rules has a bound: an agent lives through any number of reloads."""

    def reload(turn: int) -> None:
        redirection = STANDARD._replace(outbound=cidrs(f"10.{turn % 250}.{turn // 250}.0/24"))
        for table in policy.build_ruleset(redirection, FACTS).tables:
            for chain in compiling.compile_table(table, model.Owner.NOBODY).chains:
                for rule in chain.rules:
                    sent = expressions.encode_expressions(rule.expressions)
                    assert expressions.decode_expressions(sent) == rule.expressions

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        for turn in range(100):
            reload(turn)
        before = held()
        for turn in range(100, 500):
            reload(turn)
        assert held() - before < 50_000
    finally:
        tracemalloc.stop()


def edits(text: str) -> Iterator[tuple[str, str]]:
    """Every single change of one line of a listing that nft still accepts, with its name."""
    lines = text.splitlines()
    start = max(i for i, line in enumerate(lines) if line.startswith("table inet"))
    for index in range(start, len(lines)):
        line = lines[index]
        head, tail = lines[:index], lines[index + 1 :]

        def changed(*instead: str, head: list[str] = head, tail: list[str] = tail) -> str:
            return "\n".join([*head, *instead, *tail]) + "\n"

        if " counter " in line:
            yield f"{index}: no rule", changed()
            yield f"{index}: twice", changed(line, line)
            if " counter " in tail[0]:
                yield f"{index}: swapped", "\n".join([*head, tail[0], line, *tail[1:]]) + "\n"
            for old, new in (
                ("counter return", "counter accept"),
                (" counter ", " "),
                ("jump", "goto"),
                (" != ", " "),
                ("meta skuid", "meta skgid"),
                ("ip daddr", "ip saddr"),
                ("fib daddr", "fib saddr"),
                ("fib daddr", "fib daddr . iif"),
                ("type != local", "type != unicast"),
                ("dport", "sport"),
                ('"lo"', '"eth0"'),
                ("15001", "15002"),
                ("== syn", "== ack"),
                ("998", "999"),
                ('comment "', 'comment "other '),
            ):
                if old in line:
                    yield f"{index}: {old} to {new}", changed(line.replace(old, new, 1))
        elif "hook" in line:
            yield (
                f"{index}: priority",
                changed(re.sub(r"priority (-?)\d+", r"priority \g<1>9", line)),
            )
            yield f"{index}: policy", changed(line.replace("policy accept", "policy drop"))
        elif "elements" in line or line.startswith("\t\t\t"):
            last = r"\d+(?=\D*$)"
            yield f"{index}: element", changed(re.sub(last, lambda m: str(int(m[0]) ^ 1), line))


def test_every_single_change_of_the_rules_is_noticed(rig: Rig, kernel: nftables.NftKernel) -> None:
    """What nft accepts of all these edits differs from what we want, and we say so."""
    noticed = refused = 0
    for table in DESIRED.tables:
        rig.apply(kernel, DESIRED)
        text = nft.render_nft(table)
        for name, changed in edits(text):
            if changed == text:
                continue
            try:
                rig.nft(text=changed)
            except Exception:  # noqa: BLE001 - what nft refuses is no change
                refused += 1
                continue
            assert drifts(rig, kernel), f"{table.name} line {name} went unnoticed"
            noticed += 1
    assert noticed > 200
    assert refused < noticed / 4


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("add chain inet istio_hostagent extra", "chain extra: not ours: the chain"),
        ("add rule inet istio_hostagent output return", "rule 2: not ours: return"),
        ("add set inet istio_hostagent x { type mark; }", "set x: not ours: the set"),
        ("add table inet istio_guard { flags dormant; }", "is dormant, must be active"),
        ("delete table inet istio_guard", "table inet istio_guard: missing: the table"),
        (
            "add rule inet istio_hostagent ISTIO_OUTPUT limit rate 1/second drop",
            "not ours: [ ?limit",
        ),
        ("add rule inet istio_hostagent ISTIO_OUTPUT tcp dport { 1, 2 } return", "__set"),
    ],
    ids=lambda value: value if value.startswith(("add", "delete")) else "",
)
def test_what_is_added_or_gone_is_named(
    rig: Rig, kernel: nftables.NftKernel, command: str, line: str
) -> None:
    rig.apply(kernel, DESIRED)
    rig.nft(text=command + "\n")
    found = drifts(rig, kernel)
    assert any(line in each for each in found), found
    second = exchange.from_json(rig.worker("second_reader", {})["observed"])
    assert drift.find_drift(DESIRED, second)
    rig.apply(kernel, DESIRED)
    assert drifts(rig, kernel) == []


def test_an_element_put_into_a_set_is_named_and_taken_out(
    rig: Rig, kernel: nftables.NftKernel
) -> None:
    rig.apply(kernel, DESIRED)
    (name,) = (s.name for s in DESIRED.tables[0].sets if s.name.startswith("outbound_v4"))
    rig.nft(text=f"add element inet istio_hostagent {name} {{ 8.8.8.0/24 }}\n")
    assert drifts(rig, kernel) == [f"table inet istio_hostagent set {name}: not ours: 8.8.8.0/24"]
    rig.apply(kernel, DESIRED)
    assert drifts(rig, kernel) == []
    tables = rig.nft("list", "tables")
    assert sorted(tables.split()) == sorted(
        ["table", "inet", "istio_hostagent", "table", "inet", "istio_guard"]
    )


def test_an_element_that_matches_everything_is_noticed(
    rig: Rig, kernel: nftables.NftKernel
) -> None:
    """The set captures every destination then, and nft(8) does not show why."""
    rig.apply(kernel, DESIRED)
    (name,) = (s.name for s in DESIRED.tables[0].sets if s.name.startswith("outbound_v4"))
    catch_all = framing.pack_nested(3, framing.pack_nested(1, framing.pack_be32(3, 2)))
    body = framing.pack_text(1, model.MAIN_TABLE) + framing.pack_text(2, name) + catch_all
    link = rig.host.inside(connection.Connection)
    with contextlib.closing(link.socket):
        flags = framing.NLM_F_CREATE
        added = messages.Message(messages.NEWSETELEM, flags, body, "add an element")
        link.commit([added])
    assert drifts(rig, kernel)
    second = exchange.from_json(rig.worker("second_reader", {})["observed"])
    assert drift.find_drift(DESIRED, second)
    rig.apply(kernel, DESIRED)
    assert drifts(rig, kernel) == []


def test_what_does_not_differ_keeps_its_counters(rig: Rig, kernel: nftables.NftKernel) -> None:
    rig.apply(kernel, DESIRED)
    rig.host.inside(lambda: connect_nowhere("203.0.113.9"))
    assert re.search(r"ISTIO_OUTPUT comment", rig.nft("list", "ruleset"))
    before = counted(rig)
    assert before > 0
    other = policy.build_ruleset(CASES["only-inbound"], FACTS)
    rig.apply(kernel, other)
    assert counted(rig) == before


def connect_nowhere(address: str) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex((address, 9))


def counted(rig: Rig) -> int:
    text = rig.nft("list", "chain", "inet", "istio_hostagent", "output")
    found = re.search(r"counter packets (\d+)", text)
    assert found
    return int(found[1])


def test_a_refused_change_leaves_everything_as_it_is(rig: Rig, kernel: nftables.NftKernel) -> None:
    rig.apply(kernel, DESIRED)
    before = rig.nft("list", "ruleset")
    wrong = policy.build_ruleset(ALL, FACTS)
    main = compiling.compile_table(wrong.tables[0], model.Owner.NOBODY)
    jump = model.Expr("immediate", (("dreg", 0), ("verdict", -3), ("chain", "nowhere")))
    chains = tuple(
        chain._replace(rules=(*chain.rules, model.RuleState((jump,), "wrong")))
        for chain in main.chains
    )
    planned = model.Plan(write=(main._replace(chains=chains),))
    with pytest.raises(ApplyRejected) as caught:
        rig.host.inside(lambda: kernel.apply(planned))
    assert caught.value.errno == 2
    assert caught.value.step.startswith("add rule to istio_hostagent")
    assert rig.nft("list", "ruleset") == before


def test_a_refused_first_installation_leaves_nothing(rig: Rig, kernel: nftables.NftKernel) -> None:
    main = compiling.compile_table(DESIRED.tables[0], model.Owner.NOBODY)
    broken = main._replace(chains=main.chains[1:])  # somebody jumps to the missing one
    with pytest.raises(ApplyRejected):
        rig.host.inside(
            lambda: kernel.apply(model.Plan(write=(broken,), add_addresses=("::6/128",)))
        )
    left = rig.observe(kernel)
    assert (left.tables, left.loopback_addresses) == ((), ())


def test_a_kernel_without_an_expression_refuses_all_and_is_named(rig: Rig) -> None:
    """What an older or smaller kernel answers to `fib`: no expression of that name, no module."""
    table = compiling.compile_table(DESIRED.tables[0], model.Owner.NOBODY)
    parts = [*transactions.prepare([table], {}), *transactions.switch([table], [], {})]
    renamed = [part._replace(body=part.body.replace(b"fib\0", b"fix\0")) for part in parts]
    assert renamed != parts
    link = rig.host.inside(connection.Connection)
    with contextlib.closing(link.socket), pytest.raises(ApplyRejected) as caught:
        link.commit(renamed)
    step = "add rule to istio_hostagent ISTIO_INBOUND (only passes through this host)"
    assert caught.value.step == step
    assert str(caught.value) == (
        f"the kernel refused to {step}: No such file or directory; nothing was changed"
    )
    assert "nft_fib_inet" in caught.value.hint
    assert rig.nft("list", "ruleset") == ""


def test_a_concurrent_commit_is_refused_and_made_anew(
    rig: Rig, kernel: nftables.NftKernel
) -> None:
    link = rig.host.inside(connection.Connection)
    with contextlib.closing(link.socket):
        stale = link.generation()
        rig.nft(text="add table inet foreign\n")
        with pytest.raises(KernelBusy):
            link.commit([messages.new_table("x", is_owned=False)], lambda: stale)
        # An observation of before somebody else's commit does no harm either.
        observed = rig.observe(kernel)
        rig.nft(text="delete table inet foreign\n")
        rig.host.inside(lambda: kernel.apply(plan.make_plan(DESIRED, observed, owned=False)))
    assert drifts(rig, kernel) == []


_COMMIT_FOR_EVER = """
import time
from istio_hostagent.host import nftables
from istio_hostagent.host.nfnetlink import connection, messages
link = connection.Connection()
nftables.commit_soon(link, lambda: [messages.new_table("foreign", is_owned=False)])
print(flush=True)
while True:
    nftables.commit_soon(link, lambda: [messages.new_chain("foreign", "c", None)])
    nftables.commit_soon(link, lambda: [messages.delete_chain("foreign", "c")])
    time.sleep(0.005)
"""


def test_who_commits_all_the_time_beside_us_keeps_us_from_nothing(rig: Rig) -> None:
    """While our rules are read or put in, hundreds of transactions of others come in between."""
    many = STANDARD._replace(
        outbound=cidrs(*(f"10.{i}.{j}.0/25" for i in range(20) for j in range(250)))
    )
    process = rig.host.popen(
        [PYTHON, "-c", _COMMIT_FOR_EVER], stdout=subprocess.PIPE, cwd=CHECKOUT
    )
    try:
        assert process.stdout
        process.stdout.readline()
        with rig.kernel() as kernel:
            for desired in (policy.build_ruleset(each, FACTS) for each in (many, STANDARD, many)):
                rig.host.inside(functools.partial(reconcile.reconcile, desired, kernel))
                assert drifts(rig, kernel, desired) == []
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    rig.clean()


def test_changes_of_others_all_the_time_do_not_stop_ours(
    rig: Rig, kernel: nftables.NftKernel
) -> None:
    link = rig.host.inside(connection.Connection)
    is_over = threading.Event()
    count = 0

    def disturb() -> None:
        nonlocal count
        while not is_over.wait(0.002):
            nftables.commit_soon(link, lambda: [messages.new_table("foreign", is_owned=False)])
            nftables.commit_soon(link, lambda: [messages.delete_table("foreign")])
            count += 2

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(20):
            for desired in (DESIRED, policy.build_ruleset(ALL, FACTS)):
                rig.apply(kernel, desired)
                assert drifts(rig, kernel, desired) == []
    finally:
        is_over.set()
        thread.join()
        link.socket.close()
    assert count > 2


def test_an_owned_table_belongs_to_its_socket(rig: Rig) -> None:
    with rig.kernel(is_owner=True) as kernel:
        rig.apply(kernel, DESIRED)
        main = rig.observe(kernel).tables[1]
        assert main.owner is model.Owner.WE
        rig.nft("flush", "ruleset")
        assert [t.name for t in rig.observe(kernel).tables] == [model.MAIN_TABLE]
        with rig.kernel() as other, pytest.raises(NotPermitted, match="belongs to"):
            rig.apply(other, model.Ruleset())
        # The socket goes on to the next process: it is the owner then.
        heir = rig.host.inside(lambda: nftables.NftKernel(kernel.socket.dup(), is_owner=True))
    assert drifts(rig, heir) == ["table inet istio_guard: missing: the table"]
    rig.apply(heir, policy.build_ruleset(ALL, FACTS))
    heir.close()
    with rig.kernel() as other:
        assert [t.name for t in rig.observe(other).tables] == [model.GUARD_TABLE]
        rig.apply(other, model.Ruleset())


def test_the_holder_of_a_table_is_named(rig: Rig) -> None:
    """The process is asked in its own namespace: there /proc shows its sockets."""
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from istio_hostagent.errors import NotPermitted
from istio_hostagent.host import nftables
from istio_hostagent.redirect import model
one, two = nftables.NftKernel(is_owner=True), nftables.NftKernel(is_owner=False)
one.apply(model.Plan(write=(model.TableState("istio_guard", (), (), model.Owner.WE),)))
try:
    two.apply(model.Plan(delete=("istio_guard",)))
except NotPermitted as error:
    print(error)
"""
    said = rig.host.python(code, str(CHECKOUT))
    assert re.fullmatch(r"table inet istio_guard belongs to process \d+ \(python3.*\)\n", said)


def test_taking_over_a_table_is_not_noticed_by_a_stand_in_left_behind(rig: Rig) -> None:
    with rig.kernel() as unowned:
        rig.apply(unowned, DESIRED)
    with rig.kernel(is_owner=True) as kernel:
        planned = rig.apply(kernel, DESIRED)
        assert [table.name for table in planned.write] == [model.MAIN_TABLE]
        names = [table.name for table in rig.observe(kernel).tables]
        assert names == [model.GUARD_TABLE, model.MAIN_TABLE]
        assert drifts(rig, kernel) == []
        rig.apply(kernel, model.Ruleset())


def test_a_stand_in_of_a_killed_agent_goes_with_the_next_plan(
    rig: Rig, kernel: nftables.NftKernel
) -> None:
    rig.apply(kernel, DESIRED)
    rig.nft(text=f"add table inet {model.STAND_IN_TABLE}\n")
    assert drifts(rig, kernel)
    rig.apply(kernel, DESIRED)
    assert drifts(rig, kernel) == []


def test_ten_thousand_networks(rig: Rig, kernel: nftables.NftKernel) -> None:
    many = cidrs(*(f"10.{i // 128}.{i % 128 * 2}.0/25" for i in range(10_000)))
    desired = policy.build_ruleset(type(STANDARD)(outbound=many), FACTS)
    # What this process uses, in the kernel too: neighbours do not count.
    began = time.process_time()
    rig.apply(kernel, desired)
    took_s = time.process_time() - began
    assert drifts(rig, kernel, desired) == []
    assert took_s < 2.0


def test_without_privileges_the_missing_one_is_named(rig: Rig) -> None:
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from istio_hostagent.errors import NotPermitted
from istio_hostagent.host import nftables
try:
    nftables.NftKernel(is_owner=False).observe()
except NotPermitted as error:
    print(error.exit_status, error)
"""
    argv = [PYTHON, "-c", code, str(CHECKOUT)]
    done = rig.host.run(argv, user=rigs.APP, check=True)
    assert done.stdout == "77 reading rules needs CAP_NET_ADMIN\n"


def test_killed_at_any_moment_the_rules_are_the_old_or_the_new(
    rig: Rig, kernel: nftables.NftKernel
) -> None:
    """A process that replaces the rules without end is killed; what is there is whole."""
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from istio_hostagent.host import nftables
from istio_hostagent.redirect import plan, policy
from tests.unit.samples import ALL, FACTS, STANDARD
kernel = nftables.NftKernel(is_owner=False)
rulesets = [policy.build_ruleset(each, FACTS) for each in (STANDARD, ALL)]
print("ready", flush=True)
while True:
    for desired in rulesets:
        kernel.apply(plan.make_plan(desired, kernel.observe(), owned=False))
"""
    wanted = [policy.build_ruleset(each, FACTS) for each in (STANDARD, ALL)]
    rig.apply(kernel, wanted[1])
    for attempt in range(15):
        process = rig.host.popen(
            [PYTHON, "-c", code, str(CHECKOUT)], stdout=subprocess.PIPE, cwd=CHECKOUT
        )
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        observed = rig.observe(kernel)
        shapes = [{t.name: t.chains for t in compiled(each)} for each in wanted]
        assert {table.name: table.chains for table in observed.tables} in shapes
        rig.apply(kernel, wanted[0])
        assert drifts(rig, kernel, wanted[0]) == []


def compiled(ruleset: model.Ruleset) -> list[model.TableState]:
    return [compiling.compile_table(table, model.Owner.NOBODY) for table in ruleset.tables]
