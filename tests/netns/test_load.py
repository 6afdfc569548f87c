"""Rules change under load: nothing goes around the proxy, nothing is refused, in either family.

A sample runs with everything else; `make soak` counts as far as is promised: 1 000 reloads, every
flavour of take-over, 200 kills. Its figures are said as they come, those of legacy tables beside
what iptables-restore does there.
"""

import contextlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab import facts, flow, istiorules, layers, soak
from tests.lab.host import PYTHON, Host
from tests.netns.conftest import MESH, MakeHost, configure, join, stand_in
from tests.netns.test_liveness import ANSWERING

pytestmark = pytest.mark.soak

RELOADS = soak.times(8, 1000)
LEGACY_RELOADS = soak.times(2, 100)
TAKE_OVERS = soak.times(1, 40)
KILLS = soak.times(10, 200)
CAPTURED = f"{MESH},10.96.0.0/12,{flow.CAPTURED_V6}"
# As an operator asks the peer for the same.
WORDS = ("-b", "8080", "-i", f"10.96.0.0/12,{flow.CAPTURED_V6}", "--dual-stack")
COMMANDS = ("iptables-legacy", "ip6tables-legacy")


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """One with both families, and a way to everywhere."""
    made = make_host()
    made.namespace.add_address("eth0", "fd78::11/64")
    made.namespace.ip("-6", "route", "add", "default", "via", "fd78::1")
    return made


def change(host: Host, number: int, *more: str) -> str:
    """Write another configuration than any before; gives what is new in it."""
    excluded = f"10.111.{number >> 8 & 255}.{number & 255}"
    networks = ",".join((CAPTURED, *more))
    configure(host, ISTIO_SERVICE_CIDR=networks, ISTIO_SERVICE_EXCLUDE_CIDR=f"{excluded}/32")
    return excluded


def rules(host: Host) -> str:
    return host.namespace.run(["nft", "list", "table", "inet", "istio_hostagent"]).stdout


Tell = Callable[[str, object], None]
Flowing = Callable[..., contextlib.AbstractContextManager[flow.Flow]]


@pytest.fixture
def flowing(host: Host, record_property: Tell) -> Flowing:
    """Connections all the time; at the end it is said what became of them."""

    @contextlib.contextmanager
    def flowing(what: str, *, has_proxy: bool = True, has_v6: bool = True) -> Iterator[flow.Flow]:
        flows = flow.Flow(host.namespace, has_proxy=has_proxy, has_v6=has_v6)
        with flows:
            yield flows
        record_property(soak.FIGURE, f"{what}: {flows.tally}")

    return flowing


def check(flows: flow.Flow) -> None:
    assert flows.tally is not None
    facts.never(flows.tally.around, str(flows.tally))
    assert flows.tally.made > 500
    assert flows.tally.is_clean, str(flows.tally)


def test_reloads_of_an_agent(host: Host, flowing: Flowing) -> None:
    """Each one is tried, proven and accepted, as on a host whose files change."""
    answer = host.directory / "answer"
    answer.write_text("200")
    script = host.directory / "proxy.py"
    script.write_text(ANSWERING + flow.PROXY)
    for path in (answer, script):
        path.chmod(0o644)
    stand_in(host, f"exec {PYTHON} {script} {answer}")
    join(host, ISTIO_SERVICE_CIDR=CAPTURED)
    with flowing(f"{RELOADS} reloads, native", has_proxy=False) as flows:
        for number in range(RELOADS):
            excluded = change(host, number)
            assert host.verb("reload").returncode == 0
            assert excluded in rules(host)
    check(flows)
    assert host.status()["in_mesh"]


def test_reloads_in_legacy_tables(host: Host, flowing: Flowing) -> None:
    """Beside the tool that puts a whole table of one family in with one commit."""
    layers.require("netns", "" if shutil.which("iptables-legacy") else "needs iptables-legacy")
    host.write_hostagent(ISTIO_HOSTAGENT_BACKEND="legacy")
    change(host, 0)
    host.verb("apply")
    with flowing(f"{LEGACY_RELOADS} reloads, legacy tables") as flows:
        for number in range(LEGACY_RELOADS):
            excluded = change(host, number + 1)
            host.verb("apply")
            assert excluded in saved(host)
    assert flows.tally is not None
    facts.never(flows.tally.around, str(flows.tally))
    if soak.IS_SOAKING:
        beside_iptables_restore(host, flowing)


def saved(host: Host) -> str:
    return "".join(host.namespace.run([f"{each}-save"], check=True).stdout for each in COMMANDS)


def beside_iptables_restore(host: Host, flowing: Flowing) -> None:
    """The same rules, put back by iptables-legacy-restore, each table of each family at once."""
    texts = {each: host.namespace.run([f"{each}-save"], check=True).stdout for each in COMMANDS}
    with flowing(f"{LEGACY_RELOADS} reloads, iptables-legacy-restore"):
        for number in range(LEGACY_RELOADS):
            for command, text in texts.items():
                other = text.replace("10.111.", f"10.{112 + number % 2}.")
                host.namespace.run([f"{command}-restore"], stdin=other, check=True)


Install = Callable[[Host], None]


def _run_peer(back_end: str) -> Install:
    return lambda host: istiorules.run_istio_iptables(host.namespace, back_end, *WORDS)


@pytest.mark.parametrize("flavour", ["legacy", "nft", "native"])
def test_taking_over_from_istio_iptables(host: Host, flowing: Flowing, flavour: str) -> None:
    problem = "" if istiorules.find_pilot_agent() else "needs pilot-agent: `make peers` builds it"
    layers.require("interop", problem)
    take_over(host, flowing, f"istio-iptables, {flavour}", _run_peer(flavour))


@pytest.mark.parametrize("flavour", ["legacy", "nft"])
def test_taking_over_from_the_classic_scripts(host: Host, flowing: Flowing, flavour: str) -> None:
    """Theirs know no IPv6."""
    name = "istio-iptables.sh 1.0"

    def install(host: Host) -> None:
        istiorules.write_classic(host.namespace, flavour, name)

    take_over(host, flowing, f"{name}, {flavour}", install, has_v6=False)


def take_over(
    host: Host, flowing: Flowing, what: str, install: Install, *, has_v6: bool = True
) -> None:
    """Theirs capture, ours take over, theirs come back beside ours, ours go."""
    change(host, 0)
    install(host)
    with flowing(f"{TAKE_OVERS} take-overs from {what}", has_v6=has_v6) as flows:
        for _ in range(TAKE_OVERS):
            taken = host.verb("apply").stdout
            assert " rules of istio-iptables" in taken
            assert "ISTIO_" not in istiorules.save(host.namespace)
            install(host)
            host.verb("clean")
    check(flows)


# Enough of them that the rules take two steps, of which the first is long, or several itself.
COUNT = soak.times(1500, 60_000)
SOME = [f"{11 + i // 32768}.{i // 128 % 256}.{i % 128 * 2}.0/24" for i in range(COUNT)]


def test_kills_in_the_middle_of_an_apply(host: Host, flowing: Flowing) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    change(host, 0, *SOME)
    began = time.monotonic()
    host.verb("apply")
    takes_s = time.monotonic() - began
    halves = (SOME[: COUNT * 3 // 4], SOME[COUNT // 4 :])
    killed = 0
    with flowing(f"{KILLS} kills in the middle of an apply") as flows:
        for number in range(KILLS):
            excluded = change(host, number + 1, *halves[number % 2])
            words = host.namespace.argv([PYTHON, "-m", "istio_hostagent", "apply", "--quiet"])
            verb = subprocess.Popen(words, env=host.environment)
            # The first third is loading, on a quiet machine and on a busy one.
            with contextlib.suppress(subprocess.TimeoutExpired):
                verb.wait(dice.uniform(0.3, 1.0) * takes_s)
            killed += verb.poll() is None
            verb.kill()
            verb.wait(10)
            if number % 4 == 0:
                began = time.monotonic()
                host.verb("apply")
                takes_s = min(takes_s, time.monotonic() - began)
                assert excluded in rules(host)
        host.verb("apply")
    check(flows)
    assert killed > KILLS // 4
    found = json.loads(host.verb("verify", "--json", is_checked=False).stdout)
    assert (found["differences"], found["broken"]) == ([], [])
    assert host.verb("apply").stdout == "nothing to do: the rules are as desired\n"
