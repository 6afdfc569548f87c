"""Of very many networks one more is one element more, in the kernel, and no connection notices."""

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator

import pytest

from istio_hostagent.config.model import Redirection
from istio_hostagent.errors import ApplyRejected
from istio_hostagent.host import secondread, transactions
from istio_hostagent.host.nfnetlink import connection, framing, messages
from istio_hostagent.redirect import drift, expressions, model, plan, policy
from tests.lab import servers
from tests.lab.host import CHECKOUT, PYTHON
from tests.netns import rig as rigs
from tests.netns.rig import APP, Rig
from tests.unit.samples import cidrs

# Found by hash, in a tree, and what captures the servers of the rig.
MANY = [f"10.{i // 128}.{i % 128 * 2}.0/24" for i in range(8192)]
WIDE = [f"172.{16 + i // 64}.{i % 64 * 4}.0/23" for i in range(200)]
MANY_V6 = [f"fd00:{i * 2:x}::/64" for i in range(1100)]
ALL = [*MANY, *WIDE, *MANY_V6]
KINDS = {
    messages.NEWSETELEM: "element added",
    messages.DELSETELEM: "element removed",
    messages.NEWGEN: "transaction",
}

# Runs what its arguments say, and tells the most memory it had, in kB, before what that has said.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=sys.stdin, capture_output=True, text=True, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(done.stdout, end="")
"""


def ruleset(*networks: str) -> model.Ruleset:
    return policy.build_ruleset(Redirection(outbound=cidrs(*networks)), rigs.FACTS)


@pytest.fixture
def clean(rig: Rig) -> Iterator[Rig]:
    yield rig
    rig.clean()


class Events:
    """What the kernel announces of each change, of whomever."""

    def __init__(self, rig: Rig) -> None:
        self._socket = rig.host.inside(lambda: connection.open_socket((7,)))
        connection.force_receive_buffer(self._socket, 64 << 20)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def take(self) -> Counter[str]:
        self._socket.setblocking(False)
        found: Counter[str] = Counter()
        with contextlib.suppress(BlockingIOError):
            while True:
                for each in framing.split_messages(self._socket.recv(1 << 20)):
                    command = each.kind & 0xFF
                    found[KINDS.get(command, f"command {command}")] += 1
        return found


@pytest.mark.parametrize(
    "more",
    ["10.200.0.0/24", "10.0.1.0/24", "172.31.0.0/23", "fd01::/64", "fd00:1::/64"],
    ids=["hash", "between-neighbours", "tree", "IPv6", "IPv6-neighbour"],
)
def test_a_network_more_is_one_element_in_each_table(clean: Rig, more: str) -> None:
    one, other = ruleset(*ALL), ruleset(*ALL, more)
    # In a tree a range has two ends.
    ends = 2 if more.endswith("/23") else 1
    with clean.kernel() as kernel, Events(clean) as events:
        clean.apply(kernel, one)
        events.take()
        clean.apply(kernel, other)
        assert events.take() == {"element added": 2 * ends, "transaction": 1}
        assert drift.find_drift(other, clean.observe(kernel)) == ()
        read = clean.host.inside(lambda: secondread.observe((model.PASSTHROUGH_ADDRESS,)))
        assert drift.find_drift(other, read) == ()
        clean.apply(kernel, one)
        assert events.take() == {"element removed": 2 * ends, "transaction": 1}
        assert drift.find_drift(one, clean.observe(kernel)) == ()


# So many that the kernel tells of more than whoever listens to it has room for.
ABUNDANT = [f"{10 + n // 32768}.{n // 128 % 256}.{n % 128 * 2}.0/24" for n in range(60_000)]


def generation_behind_somebody(rig: Rig) -> int:
    """After a change of somebody else."""
    rig.nft("add", "table", "ip", "foreign")
    rig.nft("delete", "table", "ip", "foreign")
    with rig.kernel() as kernel:
        return rig.observe(kernel).generation


def test_more_than_the_kernel_tells_of_goes_in_although_somebody_was_first(clean: Rig) -> None:
    """Whoever is overtaken listens to others, and must not take its own elements for theirs."""
    desired = ruleset(*ABUNDANT)
    with clean.kernel() as kernel:
        long_ago = generation_behind_somebody(clean) - 1
        overtaken = plan.make_plan(desired, model.Observed(generation=long_ago), owned=False)
        clean.host.inside(lambda: kernel.apply(overtaken))
        assert drift.find_drift(desired, clean.observe(kernel)) == ()


def test_what_a_killed_one_has_left_half_full_is_made_whole(clean: Rig) -> None:
    """Very much is prepared in several transactions, and one may end between any two."""
    desired = ruleset(*ABUNDANT)
    states = [expressions.compile_table(each, model.Owner.NOBODY) for each in desired.tables]
    prepared = transactions.portions(transactions.prepare(states, {}))
    link = clean.host.inside(connection.Connection)
    with contextlib.closing(link.socket), clean.kernel() as kernel:
        for portion in itertools.islice(prepared, 5):
            clean.host.inside(lambda portion=portion: link.commit(portion))  # type: ignore[misc]
        left = sum(len(each.ranges) for t in clean.observe(kernel).tables for each in t.sets)
        assert 10_000 < left < 50_000
        clean.apply(kernel, desired)
        assert drift.find_drift(desired, clean.observe(kernel)) == ()


def test_what_is_refused_on_the_way_leaves_nothing(clean: Rig) -> None:
    """Whatever of it has been done, and somebody else's table stays."""
    desired = ruleset(*ABUNDANT)
    with clean.kernel() as kernel:
        planned = plan.make_plan(desired, clean.observe(kernel), owned=False)
        wrong = model.RuleState((model.Expr("lookup", (("set", "nobody"), ("sreg", 1))),))
        (main, *others) = planned.write
        chain, *rest = main.chains
        main = main._replace(chains=(chain._replace(rules=(wrong,)), *rest))
        refused = planned._replace(write=(main, *others))
        with pytest.raises(ApplyRejected):
            clean.host.inside(lambda: kernel.apply(refused))
        assert clean.observe(kernel).tables == ()


def test_the_second_reader_takes_little_for_very_many(clean: Rig) -> None:
    """All of 60 000 at once would be 280 MB; less than a third of that is the library itself."""
    with clean.kernel() as kernel:
        clean.apply(kernel, ruleset(*ABUNDANT))
    request = json.dumps({"addresses": []})
    launch = str(CHECKOUT / "istio_hostagent" / "workers" / "launch.py")
    words = (MEASURED, PYTHON, "-I", launch, "second_reader")
    done = clean.host.run([PYTHON, "-I", "-c", *words], stdin=request, check=True)
    most_kb, answer = done.stdout.split("\n", 1)
    assert len(json.loads(answer)["observed"]["tables"]) == 2
    assert int(most_kb) < 120_000


def test_what_somebody_has_taken_out_comes_back_alone(clean: Rig) -> None:
    desired = ruleset(*ALL)
    with clean.kernel() as kernel, Events(clean) as events:
        clean.apply(kernel, desired)
        (name,) = (
            each.name
            for table in clean.observe(kernel).tables
            for each in table.sets
            if table.name == model.MAIN_TABLE and each.name.startswith("outbound_v4_24")
        )
        clean.nft("delete", "element", "inet", model.MAIN_TABLE, name, "{ 10.5.4.0 }")
        (found,) = drift.find_drift(desired, clean.observe(kernel))
        assert "10.5.4.0" in str(found)
        events.take()
        clean.apply(kernel, desired)
        assert events.take() == {"element added": 1, "transaction": 1}
        assert drift.find_drift(desired, clean.observe(kernel)) == ()


def test_changing_elements_lets_no_connection_around(clean: Rig, served: rigs.Servers) -> None:
    """Those whose networks stay, in a tree and found by hash, while their neighbours come and go."""
    captured = {"10.96.0.5": "10.96.0.0/24", "fd00:10::5": "fd00:10::/64"}
    others = [*WIDE, *MANY_V6, *(each for each in MANY if each != "10.96.0.0/24")]
    rulesets = [
        ruleset(*captured.values(), *others),
        ruleset(
            *captured.values(), *others[1:-1], "10.95.255.0/24", "10.96.1.0/24", "fd00:11::/64"
        ),
    ]
    before = served.neighbour.accepted()
    with clean.kernel() as kernel, Events(clean) as events:
        clean.apply(kernel, rulesets[1])
        flows = [
            servers.Traffic(
                clean.host, rigs.target(each, 80), needle=each, interval_s=0.0, user=APP
            )
            for each in captured
        ]
        events.take()
        with flows[0], flows[1]:
            for index in range(60):
                clean.apply(kernel, rulesets[index % 2])
            tallies = [flow.stop() for flow in flows]
        seen = events.take()
    assert seen.keys() == set(KINDS.values()) and seen["transaction"] == 60
    for tally in tallies:
        assert tally.failed == 0, tally.failures
        assert tally.made > 50
    assert served.neighbour.accepted() == before
