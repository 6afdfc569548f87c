"""What Istio's own scripts have left on a host: taken over without a gap, and nothing else.

Whether a connection goes around is seen in the kernel, by a table of the test's own, as in
`test_kill`.
"""

import contextlib
import fcntl
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab import facts, istiorules, layers, netns, soak
from tests.lab.host import CHECKOUT, PYTHON, Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import CAPTURING, NOBODY, MakeHost, configure, join
from tests.netns.test_kill import CAPTURED, WATCH, leaked
from tests.netns.test_kill import traffic as flowing

pytestmark = pytest.mark.skipif(
    shutil.which("iptables-legacy") is None, reason="needs iptables, both of its kinds"
)

REAL = [
    (f"istio-iptables {back_end} {what}", back_end, words)
    for back_end in ("legacy", "nft", "native")
    for what, words in (
        ("ordinary", istiorules.ORDINARY),
        ("everything", istiorules.EVERYTHING),
    )
]
CLASSIC = [
    (f"{name} {back_end}", back_end, name)
    for back_end in ("legacy", "nft")
    for name in istiorules.CLASSIC
]

# Until its standard input ends.
CLIENT = """
import select, socket, sys
made, failures = 0, []
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0.001)[0]:
    with socket.socket() as s:
        s.settimeout(1.0)
        if number := s.connect_ex((sys.argv[1], 80)):
            failures.append((made, number))
        made += 1
print(made, failures, flush=True)
"""
# Who accepts what is captured, as the proxy would.
PROXY = (
    CAPTURING
    + """
import select
for each in captured:
    each.listen(4096)
print("there", flush=True)
while True:
    for each in select.select(captured, [], [])[0]:
        each.accept()[0].close()
"""
)


@contextlib.contextmanager
def traffic(host: Host) -> Iterator[None]:
    """New connections of an ordinary user all the time, accepted where captured ones arrive.

    None may go around, and none may be refused.
    """
    host.namespace.run(["nft", "-f", "-"], stdin=WATCH % proxy_user()[0], check=True)
    uid, _ = proxy_user()
    proxy = host.namespace.popen([PYTHON, "-c", PROXY], user=uid, stdout=-1)
    assert proxy.stdout is not None and proxy.stdout.readline() == "there\n"
    argv = [PYTHON, "-c", CLIENT, CAPTURED]
    client = host.namespace.popen(argv, user=NOBODY, stdin=-1, stdout=-1)
    assert client.stdin is not None and client.stdout is not None
    assert client.stdout.readline() == "begun\n"
    try:
        yield
    finally:
        client.stdin.close()
        made, failures = client.stdout.readline().strip().split(" ", 1)
        proxy.kill()
        client.wait(10)
        proxy.wait(10)
        around = leaked(host)
        facts.never(around, f"{around} of {made} connections around the proxy")
    host.namespace.run(["nft", "delete", "table", "inet", "watcher"], check=True)
    assert int(made) > 20
    assert failures == "[]", f"of {made} connections"


@pytest.fixture(scope="module")
def _pilot_agent() -> None:
    problem = "" if istiorules.find_pilot_agent() else "needs pilot-agent: `make peers` builds it"
    layers.require("interop", problem)


def install_classic(space: netns.Namespace, back_end: str, name: str) -> None:
    istiorules.write_classic(space, back_end, name)
    if name == "istio-iptables.sh 0.8":
        for _ in range(2):  # each start adds one
            space.ip("rule", "add", "fwmark", "1337", "lookup", "133")
        space.ip("route", "add", "local", "default", "dev", "lo", "table", "133")


def foreign_back_end(back_end: str) -> str:
    return "legacy" if back_end == "legacy" else "nft"


def check_apply(host: Host, back_end: str, install: Callable[[], None]) -> list[str]:
    """Apply beside traffic; what was there before Istio's scripts is all that is left."""
    configure(host)
    istiorules.write_foreign(host.namespace, foreign_back_end(back_end))
    before = istiorules.save(host.namespace)
    install()
    planned = json.loads(host.verb("plan", "--json").stdout)["taken_over"]
    assert planned
    assert istiorules.save(host.namespace) != before, "plan changes nothing"
    with traffic(host):
        applied = host.verb("apply").stdout.splitlines()
    assert applied[-len(planned) :] == [f"-{text}" for text in planned]
    after = istiorules.save(host.namespace)
    assert after == before
    assert json.loads(host.verb("verify", "--json", is_checked=False).stdout)["broken"] == []
    assert host.verb("apply").stdout == "nothing to do: the rules are as desired\n"
    return list(planned)


@pytest.mark.usefixtures("_pilot_agent")
@pytest.mark.parametrize(
    ("back_end", "words"), [case[1:] for case in REAL], ids=[case[0] for case in REAL]
)
def test_apply_takes_over_what_istio_iptables_has_left(
    make_host: MakeHost, back_end: str, words: tuple[str, ...]
) -> None:
    host = make_host()
    taken = check_apply(
        host, back_end, lambda: istiorules.run_istio_iptables(host.namespace, back_end, *words)
    )
    place = "nftables" if back_end == "native" else f"iptables-{back_end}"
    assert re.fullmatch(rf"\d+ rules of istio-iptables in {place}", taken[0])
    is_tproxy = "TPROXY" in words
    assert any("routing policy" in text for text in taken) == is_tproxy


@pytest.mark.parametrize(
    ("back_end", "name"), [case[1:] for case in CLASSIC], ids=[case[0] for case in CLASSIC]
)
def test_apply_takes_over_what_the_classic_scripts_have_left(
    make_host: MakeHost, back_end: str, name: str
) -> None:
    host = make_host()
    taken = check_apply(host, back_end, lambda: install_classic(host.namespace, back_end, name))
    author = name.split()[0]
    assert any(f" of {author} in iptables-{back_end}" in text for text in taken)


def tell_rules(host: Host) -> str:
    return istiorules.save(host.namespace)


def verb_json(host: Host, *words: str) -> dict[str, Any]:
    return dict(json.loads(host.verb(*words, "--json", is_checked=False).stdout))


@pytest.mark.parametrize("back_end", ["legacy", "nft"])
def test_what_an_interrupted_start_has_left_goes_too(make_host: MakeHost, back_end: str) -> None:
    """Among it is what drops every packet, in front of a rule of an operator that does as well."""
    host = make_host()
    configure(host)
    istiorules.write_foreign(host.namespace, back_end)
    before = tell_rules(host)
    install_classic(host.namespace, back_end, "istio-iptables 1.19")
    istiorules.restore(host.namespace, istiorules.PROGRAMS[back_end][0], istiorules.INTERRUPTED)
    host.verb("apply")
    assert tell_rules(host) == before


@pytest.mark.parametrize("back_end", ["legacy", "nft"])
def test_without_chains_of_istio_no_rule_is_taken_for_theirs(
    make_host: MakeHost, back_end: str
) -> None:
    """However much it looks like one; and no legacy table is made by looking."""
    host = make_host()
    configure(host)
    text = istiorules.CLASSIC["istio-iptables 1.19"].format(uid=proxy_user()[0])
    lines = (line for line in text.splitlines() if "ISTIO_" not in line)
    program = istiorules.PROGRAMS[back_end][0]
    istiorules.restore(host.namespace, program, "\n".join((*lines, istiorules.INTERRUPTED)))
    before = tell_rules(host)
    legacy = [istiorules.legacy_tables(host.namespace, each) for each in ("iptables", "ip6tables")]
    assert verb_json(host, "plan")["taken_over"] == []
    host.verb("apply")
    host.verb("clean", "--all")
    assert tell_rules(host) == before
    now = [istiorules.legacy_tables(host.namespace, each) for each in ("iptables", "ip6tables")]
    assert now == legacy
    assert back_end == "legacy" or now == ["", ""]


def test_a_table_that_somebody_else_looks_into_keeps_its_route(make_host: MakeHost) -> None:
    host = make_host()
    configure(host)
    for words in istiorules.FOREIGN_TPROXY:
        host.namespace.ip(*words)
    rules = host.namespace.ip("rule")
    host.namespace.ip("rule", "add", "fwmark", "1337", "lookup", "133")
    host.namespace.ip("route", "add", "local", "default", "dev", "lo", "table", "133")
    assert "-1 rule of istio-iptables in the routing policy" in host.verb("apply").stdout
    assert host.namespace.ip("rule") == rules
    assert "local default dev lo" in host.namespace.ip("route", "show", "table", "133")


def test_our_own_routing_for_the_same_mark_and_table_stays(make_host: MakeHost) -> None:
    """TPROXY instead of TPROXY: both are there at first, and then ours alone."""
    host = make_host()
    configure(host, ISTIO_INBOUND_INTERCEPTION_MODE="TPROXY")
    before = tell_rules(host)
    host.verb("apply")
    ours = tell_rules(host)
    host.verb("clean")
    assert tell_rules(host) == before
    install_classic(host.namespace, "nft", "istio-iptables.sh 0.8")
    assert "-3 rules of istio-iptables in the routing policy" in host.verb("apply").stdout
    assert tell_rules(host) == ours
    assert host.verb("apply").stdout == "nothing to do: the rules are as desired\n"
    host.verb("clean", "--all")
    assert tell_rules(host) == before


@pytest.mark.parametrize("back_end", ["legacy", "nft"])
def test_clean_takes_theirs_out_only_when_it_is_asked_to(
    make_host: MakeHost, back_end: str
) -> None:
    host = make_host()
    istiorules.write_foreign(host.namespace, back_end)
    before = tell_rules(host)
    install_classic(host.namespace, back_end, "istio-iptables.sh 1.0")
    between = tell_rules(host)
    assert host.verb("clean").stdout == "nothing to do: no rules of ours\n"
    assert tell_rules(host) == between
    cleaned = host.verb("clean", "--all").stdout
    assert cleaned == f"-12 rules of istio-iptables.sh in iptables-{back_end}\n"
    assert tell_rules(host) == before
    nothing = "nothing to do: no rules of ours or of Istio's scripts\n"
    assert host.verb("clean", "--all").stdout == nothing


def test_while_rules_wait_for_confirmation_theirs_stay(make_host: MakeHost) -> None:
    """Going back would find nothing else to go back to."""
    host = make_host()
    configure(host)
    before = tell_rules(host)
    install_classic(host.namespace, "nft", "istio-iptables.sh 1.0")
    between = tell_rules(host)
    host.verb("apply", "--confirm-within", "60s")
    assert tell_rules(host) == between
    host.verb("apply", "--go-back")
    assert tell_rules(host) == between
    host.verb("apply", "--confirm-within", "60s")
    confirmed = host.verb("apply", "--confirm").stdout
    assert confirmed.endswith("-12 rules of istio-iptables.sh in iptables-nft\n")
    assert tell_rules(host) == before


def test_rules_of_the_operators_own_are_left_alone(make_host: MakeHost) -> None:
    """Who lets istio-iptables capture says so (ISTIO_CUSTOM_IP_TABLES)."""
    host = make_host()
    configure(host, ISTIO_CUSTOM_IP_TABLES="true")
    install_classic(host.namespace, "nft", "istio-iptables 1.19")
    before = tell_rules(host)
    assert verb_json(host, "plan")["taken_over"] == []
    host.verb("apply")
    assert tell_rules(host) == before


@contextlib.contextmanager
def locked(host: Host) -> Iterator[None]:
    """Another program is at work on the legacy tables of this host, all the time."""
    path = host.directory / "xtables.lock"
    host.wrapper = ["unshare", "--mount", "sh", "-c", netns.OWN_LOCK, str(path)]
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_what_cannot_be_taken_out_is_named_with_what_does_it(make_host: MakeHost) -> None:
    host = make_host()
    configure(host)
    install_classic(host.namespace, "legacy", "istio-iptables.sh 1.0")
    with locked(host):
        done = host.verb("apply", is_checked=False)
    assert done.returncode == 75
    assert "12 rules of istio-iptables.sh in iptables-legacy could not be taken out" in done.stderr
    assert "/run/xtables.lock" in done.stderr
    assert host.tables() == set(istiorules.OURS)
    said = verb_json(host, "verify")["left_by_istio"]
    assert said.startswith("12 rules of istio-iptables.sh in iptables-legacy are still there")
    host.namespace.run(["sh", "-c", said.split("`")[1]], check=True)
    assert "ISTIO_" not in host.namespace.run(["iptables-legacy-save"], check=True).stdout
    assert verb_json(host, "verify")["left_by_istio"] == ""
    host.verb("apply")


def test_plan_says_if_it_is_not_known_what_is_to_be_taken_over(make_host: MakeHost) -> None:
    host = make_host()
    configure(host)
    install_classic(host.namespace, "legacy", "istio-iptables.sh 1.0")
    worker = CHECKOUT / "istio_hostagent" / "workers" / "takeover.py"
    broken = 'mount --bind /dev/null "$0" && exec "$@"'
    host.wrapper = ["unshare", "--mount", "sh", "-c", broken, str(worker)]
    done = host.verb("plan")
    assert "warning: what Istio's scripts may have left is not known: worker" in done.stderr


@pytest.mark.envoy
class TestAgent:
    @pytest.mark.parametrize("back_end", ["legacy", "nft"])
    @pytest.mark.parametrize("name", ["istio-iptables.sh 1.0", "istio-iptables 1.19"])
    def test_a_host_with_rules_of_istio_joins(
        self, make_host: MakeHost, envoy: str, back_end: str, name: str
    ) -> None:
        host = make_host(envoy=envoy)
        istiorules.write_foreign(host.namespace, back_end)
        before = tell_rules(host)
        install_classic(host.namespace, back_end, name)
        join(host)
        author = name.split()[0]
        (taken,) = host.status()["redirection"]["taken_over"]
        assert taken.endswith(f" rules of {author} in iptables-{back_end}")
        assert f"taken over     {taken}\n" in host.verb("status").stdout
        assert tell_rules(host) == before
        assert host.verb("verify").returncode == 0
        assert host.stop() == 0
        assert tell_rules(host) == before

    def test_rules_that_come_later_go_again_and_nothing_goes_around(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        host.namespace.run(["nft", "-f", "-"], stdin=WATCH % proxy_user()[0], check=True)
        join(host)
        with flowing(host):
            install_classic(host.namespace, "nft", "istio-iptables 1.19")
            eventually(lambda: "ISTIO_" not in nft_rules(host), "they are taken out")
            host.verb("wait", "--timeout", "60")
        facts.never(leaked(host), "around the proxy")

    def test_what_cannot_be_taken_out_is_tried_again(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        install_classic(host.namespace, "legacy", "istio-iptables.sh 1.0")
        configure(host)
        with locked(host):
            host.start()
            eventually(lambda: host.verb("status", is_checked=False).returncode != 75, "it runs")
            eventually(lambda: is_said(host, "could not be taken out"), "it is said")
            assert "`iptables-legacy-save | " in host.verb("status", is_checked=False).stdout
        host.verb("wait", "--timeout", "60")
        assert host.status()["redirection"]["left_by_istio"] == ""


def is_said(host: Host, words: str) -> bool:
    return words in host.status()["redirection"]["left_by_istio"]


def nft_rules(host: Host) -> str:
    return "".join(
        host.namespace.run([f"{program}-save"]).stdout for program in istiorules.PROGRAMS["nft"]
    )


KILLS = soak.times(5, 200)


@pytest.mark.soak
@pytest.mark.parametrize("back_end", ["legacy", "nft"])
def test_a_verb_killed_while_it_takes_over_leaves_no_gap(
    make_host: MakeHost, back_end: str
) -> None:
    """Whatever it has left, the next one ends with."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    host = make_host()
    configure(host)
    istiorules.write_foreign(host.namespace, back_end)
    before = tell_rules(host)
    install_classic(host.namespace, back_end, "istio-iptables 1.19")
    with traffic(host):
        for _ in range(KILLS):
            words = host.namespace.argv([PYTHON, "-m", "istio_hostagent", "apply"])
            verb = subprocess.Popen(words, env=host.environment, stdout=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                verb.wait(dice.uniform(0.0, 0.5))
            verb.kill()
            verb.wait(10)
            host.verb("apply")
            assert tell_rules(host) == before
            install_classic(host.namespace, back_end, "istio-iptables 1.19")
            host.verb("clean")  # theirs capture again
