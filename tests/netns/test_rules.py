"""Real connections of real users through the rules: what is captured, spared, refused, cut."""

import functools
import socket
from collections.abc import Iterator

import pytest

from istio_hostagent.config.model import CidrSet, PortSet, Redirection
from istio_hostagent.redirect import expressions, model, policy
from istio_hostagent.redirect.model import Plan
from tests.lab import servers
from tests.netns import rig as rigs
from tests.netns.rig import APP, PROXY_GROUP, PROXY_USER, Rig, words
from tests.unit.samples import STANDARD, cidrs, ports

EVERYTHING = Redirection(
    outbound=CidrSet(is_all=True),
    inbound=PortSet(is_all=True),
    outbound_exclude=cidrs("203.0.113.0/24"),
    outbound_ports_exclude=ports(22),
)


BACK_ENDS = {"nf_tables": Rig.install, "legacy": Rig.install_legacy}


@pytest.fixture(params=list(BACK_ENDS.values()), ids=list(BACK_ENDS))
def standard(
    rig: Rig, served: rigs.Servers, request: pytest.FixtureRequest
) -> Iterator[model.Ruleset]:
    yield request.param(rig, STANDARD)
    rig.clean()


@pytest.fixture
def native(rig: Rig, served: rigs.Servers) -> Iterator[model.Ruleset]:
    yield rig.install(STANDARD)
    rig.clean()


@pytest.fixture(params=list(BACK_ENDS.values()), ids=list(BACK_ENDS))
def everything(
    rig: Rig, served: rigs.Servers, request: pytest.FixtureRequest
) -> Iterator[model.Ruleset]:
    yield request.param(rig, EVERYTHING)
    rig.clean()


def ask(rig: Rig, user: int, *targets: servers.Target) -> list[str]:
    return [words(reply) for reply in servers.ask_all(rig.host, targets, user=user)]


def test_standard_outbound(rig: Rig, standard: model.Ruleset) -> None:
    asked = {
        rigs.target("10.96.0.5", 80): "10.96.0.5 80",
        rigs.target("fd00:10::5", 80): "fd00:10::5 80",
        rigs.target("203.0.113.5", 3306): "203.0.113.5 3306",
        rigs.target("10.96.1.5", 80): "neighbour",
        rigs.target("10.96.1.5", 3306): "neighbour",
        rigs.target("203.0.113.5", 80): "neighbour",
        rigs.target("fd00:20::5", 80): "neighbour",
        rigs.target("169.254.169.254", 80): "neighbour",
        rigs.target("127.0.0.1", 8080): "host",
        rigs.target("::1", 8080): "host",
        rigs.target("10.1.0.2", 8080): "host",
        rigs.target("fd00:1::2", 8080): "host",
    }
    # `until` cuts what the real servers say to at least four letters
    for user in (APP, 0):
        assert ask(rig, user, *asked) == list(asked.values())


@pytest.mark.parametrize("user", [PROXY_USER, PROXY_GROUP], ids=["uid", "gid"])
def test_the_proxy_is_not_captured_but_reaches_its_own_inbound_side(
    rig: Rig, standard: model.Ruleset, user: int
) -> None:
    asked = {
        rigs.target("10.96.0.5", 80): "neighbour",
        rigs.target("fd00:10::5", 80): "neighbour",
        rigs.target("203.0.113.5", 3306): "neighbour",
        rigs.target("10.1.0.2", 8080): "inbound",
        rigs.target("fd00:1::2", 8080): "inbound",
        rigs.target("10.1.0.2", 15008): "host",
        rigs.target("127.0.0.1", 8080): "host",
        rigs.target("::1", 8080): "host",
        rigs.target("10.1.0.2", 8080, source="127.0.0.6"): "host",
        rigs.target("fd00:1::2", 8080, source="::6"): "host",
    }
    assert ask(rig, user, *asked) == list(asked.values())


def test_standard_inbound(rig: Rig, standard: model.Ruleset) -> None:
    expected = {8080: "inbound", 8081: "host", 22: "host", 15008: "host", 15021: "host"}
    for address in ("10.1.0.2", "fd00:1::2"):
        targets = [rigs.target(address, port) for port in expected]
        replies = servers.ask_all(rig.neighbour, targets)
        assert [words(reply) for reply in replies] == list(expected.values())


def test_everything_but_what_is_excluded_or_never_captured(
    rig: Rig, everything: model.Ruleset
) -> None:
    asked = {
        rigs.target("10.96.0.5", 80): "10.96.0.5 80",
        rigs.target("fd00:20::5", 80): "fd00:20::5 80",
        rigs.target("203.0.113.5", 80): "neighbour",
        rigs.target("10.96.0.5", 22): "neighbour",
        rigs.target("169.254.169.254", 80): "neighbour",
    }
    assert ask(rig, APP, *asked) == list(asked.values())
    expected = {8080: "inbound", 8081: "inbound", 22: "host", 15008: "host", 15021: "host"}
    targets = [rigs.target("10.1.0.2", port) for port in expected]
    replies = servers.ask_all(rig.neighbour, targets)
    assert [words(reply) for reply in replies] == list(expected.values())


class Established:
    """One connection that is older than the rules, with either side speaking."""

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        self.ends = one, other
        for end in self.ends:
            end.settimeout(5.0)

    def speak(self, first: int) -> None:
        """Let one end speak, then the other; raises if anything does not arrive."""
        for index in (first, 1 - first):
            self.ends[index].sendall(b"x" * 8)
            assert self.ends[1 - index].recv(8, socket.MSG_WAITALL) == b"x" * 8

    def close(self) -> None:
        for end in self.ends:
            end.close()


@pytest.fixture
def fresh() -> Iterator[Rig]:
    """A host that has had no rules and so no connection tracking yet."""
    with rigs.make() as made:
        yield made


def accept_from(server: socket.socket, connect: socket.socket) -> Established:
    accepted, _ = server.accept()
    server.close()
    return Established(accepted, connect)


@pytest.mark.parametrize("family", ["10.1.0", "fd00:1:"])
def test_connections_older_than_the_rules_live_on(fresh: Rig, family: str) -> None:
    """As ssh to the host while somebody runs `apply` in it: the server is the first to speak.

    The peers lie in what is captured. Connection tracking starts with the rules and takes the next
    packet, in whichever direction, for the first of a connection.
    """
    separator = "." if "." in family else ":"
    host, neighbour = f"{family}{separator}2", f"{family}{separator}1"
    made = {}
    for port in (22, 8080):
        server = fresh.host.bind(host, port)
        server.listen()
        made[f"inbound {port}"] = accept_from(server, fresh.neighbour.connect(host, port))
    server = fresh.neighbour.bind(neighbour, 5432)
    server.listen()
    made["outbound"] = accept_from(server, fresh.host.connect(neighbour, 5432))
    try:
        everything = Redirection(outbound=CidrSet(is_all=True), inbound=PortSet(is_all=True))
        desired = policy.build_ruleset(everything, rigs.FACTS)
        with fresh.kernel() as kernel:
            for ruleset in (desired, desired, model.Ruleset(desired.tables[1:]), model.Ruleset()):
                fresh.apply(kernel, ruleset)
                # The host's end speaks first: 0 where it serves, 1 where it called.
                made["inbound 22"].speak(0)
                made["inbound 8080"].speak(0)
                made["outbound"].speak(1)
    finally:
        for connection in made.values():
            connection.close()


def test_replacing_the_rules_lets_no_connection_around(rig: Rig, served: rigs.Servers) -> None:
    rulesets = [
        policy.build_ruleset(each, rigs.FACTS)
        for each in (STANDARD, Redirection(outbound=cidrs("10.96.0.0/12", "fd00:10::/64")))
    ]
    before = served.neighbour.accepted()
    with rig.kernel() as kernel:
        rig.apply(kernel, rulesets[1])
        targets = ("10.96.0.5", "fd00:10::5")
        flows = [
            servers.Traffic(rig.host, rigs.target(each, 80), needle=each, interval_s=0.0, user=APP)
            for each in targets
        ]
        with flows[0], flows[1]:
            for index in range(200):
                rig.apply(kernel, rulesets[index % 2])
            tallies = [flow.stop() for flow in flows]
    rig.clean()
    for tally in tallies:
        assert tally.failed == 0, tally.failures
        assert tally.made > 50
    assert served.neighbour.accepted() == before


def test_taking_the_table_over_lets_no_connection_around(rig: Rig, served: rigs.Servers) -> None:
    """What `apply` has put in becomes the running agent's own, with a socket that owns it."""
    desired = policy.build_ruleset(STANDARD, rigs.FACTS)
    unowned = expressions.compile_table(desired.tables[0], model.Owner.NOBODY)
    before = served.neighbour.accepted()
    flow = servers.Traffic(
        rig.host,
        rigs.target("10.96.0.5", 80),
        needle="10.96.0.5",
        interval_s=0.0,
        user=APP,
    )
    rig.install(STANDARD)
    with flow:
        for _ in range(40):
            with rig.kernel(is_owner=True) as owner:
                rig.apply(owner, desired)
                # And back, as a test may: the owner leaves its rules to nobody.
                rig.host.inside(functools.partial(owner.apply, Plan(write=(unowned,))))
        tally = flow.stop()
    rig.clean()
    assert tally.failed == 0, tally.failures
    assert tally.made > 50
    assert served.neighbour.accepted() == before


def test_cleaning_leaves_nothing(rig: Rig) -> None:
    rig.install(STANDARD)
    assert "::6/128" in rig.host.ip("address", "show", "dev", "lo")
    rig.clean()
    assert rig.nft("list", "ruleset") == ""
    assert "::6/128" not in rig.host.ip("address", "show", "dev", "lo")


def test_cleaning_touches_nothing_of_others(rig: Rig) -> None:
    rig.nft(text="table inet firewall {\n chain input { type filter hook input priority 0; }\n}\n")
    rig.host.add_address("lo", "10.250.0.1/32")
    rig.install(STANDARD)
    rig.clean()
    assert "table inet firewall" in rig.nft("list", "ruleset")
    assert "10.250.0.1/32" in rig.host.ip("address", "show", "dev", "lo")
    rig.nft("delete", "table", "inet", "firewall")
    rig.host.ip("address", "delete", "10.250.0.1/32", "dev", "lo")


def test_without_the_main_table_the_guard_refuses_captured_destinations(
    rig: Rig, standard: model.Ruleset, served: rigs.Servers
) -> None:
    if model.MAIN_TABLE in rig.nft("list", "tables"):
        rig.nft("delete", "table", "inet", model.MAIN_TABLE)
    for command in ("iptables-legacy", "ip6tables-legacy"):
        rig.host.run([command, "-t", "nat", "-F", "OUTPUT"], check=True)
        rig.host.run([command, "-t", "nat", "-F", "PREROUTING"], check=True)
    asked = {
        rigs.target("10.96.0.5", 80): "refused",
        rigs.target("fd00:10::5", 80): "refused",
        rigs.target("203.0.113.5", 3306): "refused",
        rigs.target("10.96.1.5", 80): "neighbour",
        rigs.target("203.0.113.5", 80): "neighbour",
        rigs.target("169.254.169.254", 80): "neighbour",
        rigs.target("127.0.0.1", 8080): "host",
        rigs.target("10.1.0.2", 8080): "host",
    }
    assert ask(rig, APP, *asked) == list(asked.values())
    assert ask(rig, PROXY_USER, rigs.target("10.96.0.5", 80)) == ["neighbour"]
    replies = servers.ask_all(rig.neighbour, [rigs.target("10.1.0.2", 8080)])
    assert [words(reply) for reply in replies] == ["host"]


def test_with_the_main_table_the_guard_is_not_noticed(rig: Rig, native: model.Ruleset) -> None:
    assert ask(rig, APP, rigs.target("10.96.0.5", 80)) == ["10.96.0.5 80"]
    with rig.kernel() as kernel:
        rig.apply(kernel, model.Ruleset(native.tables[:1], native.loopback_addresses))
    assert ask(rig, APP, rigs.target("10.96.0.5", 80)) == ["10.96.0.5 80"]


def test_an_owned_table_goes_with_its_socket_and_the_guard_stays(
    rig: Rig, served: rigs.Servers
) -> None:
    desired = policy.build_ruleset(STANDARD, rigs.FACTS)
    with rig.kernel(is_owner=True) as kernel:
        rig.apply(kernel, desired)
        assert ask(rig, APP, rigs.target("10.96.0.5", 80)) == ["10.96.0.5 80"]
        rig.nft("flush", "ruleset")  # takes the guard, and cannot take ours
        assert ask(rig, APP, rigs.target("10.96.0.5", 80)) == ["10.96.0.5 80"]
        rig.apply(kernel, desired)
    assert ask(rig, APP, rigs.target("10.96.0.5", 80)) == ["refused"]
    rig.clean()


def test_docker_style_translation_does_not_go_around_the_proxy(
    rig: Rig, native: model.Ruleset
) -> None:
    rig.nft(
        text="""table ip docker {
            chain output {
                type nat hook output priority -100;
                ip daddr 10.96.0.5 tcp dport 80 dnat to 203.0.113.5
            }
        }
        """
    )
    assert ask(rig, APP, rigs.target("10.96.0.5", 80)) == ["10.96.0.5 80"]
    rig.nft("delete", "table", "ip", "docker")
