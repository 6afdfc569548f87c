"""Probe packets as the agent sends them: they prove, they notice, and they disturb nobody."""

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from istio_hostagent.config import model as config
from istio_hostagent.errors import ChildFailed
from istio_hostagent.host import probepool, synpacket
from istio_hostagent.redirect import expectations, model, policy
from istio_hostagent.redirect.expectations import State
from tests.lab import capture, netns, servers
from tests.lab.host import CHECKOUT, PYTHON
from tests.lab.killer import WorkerKiller
from tests.netns import rig as rigs
from tests.netns.rig import FACTS, Rig
from tests.unit.samples import ALL, CASES, STANDARD, cidrs

MANAGED = sorted(name for name, each in CASES.items() if each.is_managed)


@pytest.fixture(autouse=True)
def _clean(rig: Rig) -> Iterator[None]:
    yield
    rig.nft("flush", "ruleset")
    rig.clean()


def prove(
    rig: Rig, redirection: config.Redirection, facts: config.HostFacts = FACTS
) -> list[expectations.Finding]:
    with contextlib.closing(rigs.Packets(rig.host)) as packets:
        return packets.findings(redirection, facts)


def not_kept(findings: list[expectations.Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.state is not State.MET]


def broken(findings: list[expectations.Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.state is State.BROKEN]


@pytest.mark.parametrize("install", [Rig.install, Rig.install_legacy])
@pytest.mark.parametrize("case", MANAGED)
def test_every_expectation_is_met_and_tested(
    rig: Rig, case: str, install: Callable[[Rig, config.Redirection], object]
) -> None:
    install(rig, CASES[case])
    assert not_kept(prove(rig, CASES[case])) == []


def test_without_rules_exactly_what_is_captured_or_refused_is_broken(rig: Rig) -> None:
    # ::6 comes with the rules: what is bound to it cannot be sent without them.
    rig.host.add_address("lo", "::6/128")
    findings = prove(rig, STANDARD)
    expected = {each.expectation for each in findings}
    changed = {each for each in expected if each.captured_at or each.is_refused}
    assert {each.expectation for each in findings if each.state is State.BROKEN} == changed
    assert all(finding.state is not State.NOT_TESTABLE for finding in findings)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_OUTPUT ip daddr 172.20.0.0/16 return",
            "broken: outbound 172.20.0.0/16 is captured: the connection was unchanged",
            id="one-network-exempt",
        ),
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_OUTPUT meta skuid 0 return",
            "broken: outbound 10.96.0.1 is captured for root too: the connection was unchanged",
            id="root-exempt",
        ),
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_INBOUND tcp dport 22 redirect to :15006",
            "broken: inbound port 22 is left alone (IPv4): "
            "the connection was sent to 127.0.0.1 port 15006",
            id="ssh-captured",
        ),
        pytest.param(
            f"insert rule inet istio_hostagent ISTIO_OUTPUT meta skuid {rigs.PROXY_USER} "
            "meta l4proto tcp redirect to :15001",
            "broken: outbound 10.96.0.1 is left alone for the proxy user: "
            "the connection was sent to 127.0.0.1 port 15001",
            id="loop",
        ),
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_OUTPUT ip daddr 169.254.169.254 "
            "meta l4proto tcp redirect to :15001",
            "broken: metadata service 169.254.169.254 is left alone: "
            "the connection was sent to 127.0.0.1 port 15001",
            id="metadata-captured",
        ),
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_INBOUND jump ISTIO_IN_REDIRECT",
            "broken: a connection through this host to 198.51.100.1 port 8080 is left alone: "
            "the connection was sent to 127.0.0.1 port 15006",
            id="forwarded-captured",
        ),
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_INBOUND meta nfproto ipv6 return",
            "broken: inbound port 8080 is captured (IPv6): the connection was unchanged",
            id="ipv6-forgotten",
        ),
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_ANSWER meta skuid 0 return",
            "broken: an answer of root on capture port 15001 (IPv4) is refused: "
            "it was let through",
            id="root-answers",
        ),
        pytest.param(
            f"insert rule inet istio_hostagent ISTIO_ANSWER meta skgid {rigs.PROXY_GROUP} return",
            "broken: an answer of the proxy group on capture port 15001 (IPv6) is refused: "
            "it was let through",
            id="group-answers",
        ),
        pytest.param(
            "insert rule inet istio_hostagent output_filter tcp sport 15006 return",
            "broken: an answer of an application on capture port 15006 (IPv4) is refused: "
            "it was let through",
            id="inbound-answers",
        ),
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_ANSWER drop",
            "not testable: an answer of the proxy on capture port 15001 (IPv4) is left alone: "
            "dropped before it could be seen",
            id="nobody-answers",
        ),
        pytest.param(
            "insert rule inet istio_hostagent output_filter ip6 daddr ::1 return",
            "broken: an application is refused at ::1 port 15004: it was let through",
            id="private-ipv6-open",
        ),
        pytest.param(
            "insert rule inet istio_hostagent output_filter ip daddr != 127.0.0.1 return",
            "broken: an application is refused at own address 10.1.0.2 port 15020: "
            "it was let through",
            id="private-own-address-open",
        ),
        pytest.param(
            f"insert rule inet istio_hostagent ISTIO_PRIVATE meta skgid {rigs.PROXY_GROUP} return",
            "broken: the proxy group is refused at 127.0.0.1 port 15000: it was let through",
            id="private-for-group",
        ),
        pytest.param(
            "insert rule inet istio_hostagent ISTIO_PRIVATE drop",
            "not testable: root reaches 127.0.0.1 port 15000: dropped before it could be seen",
            id="private-for-nobody",
        ),
    ],
)
def test_a_rule_put_in_between_breaks_what_it_changes(
    rig: Rig, command: str, expected: str
) -> None:
    rig.install(STANDARD)
    rig.nft(text=command + "\n")
    assert expected in not_kept(prove(rig, STANDARD))


def test_a_table_of_others_before_ours_is_noticed(rig: Rig) -> None:
    rig.install(STANDARD)
    rig.nft(
        text="""table ip early {
            chain output {
                type nat hook output priority -150;
                ip daddr 10.96.0.0/12 tcp dport 80 dnat to 203.0.113.5
            }
        }
        """
    )
    assert any("sent to 203.0.113.5" in line for line in broken(prove(rig, STANDARD)))


def test_translation_of_others_behind_ours_breaks_nothing(rig: Rig) -> None:
    rig.install(STANDARD)
    rig.nft(
        text="""table ip docker {
            chain output {
                type nat hook output priority -100;
                tcp dport 80 dnat to 203.0.113.5
            }
        }
        """
    )
    assert broken(prove(rig, STANDARD)) == []


def test_what_somebody_drops_before_it_can_be_seen_is_not_testable(rig: Rig) -> None:
    rig.install(STANDARD)
    rig.nft(
        text="""table inet strict {
            chain output {
                type filter hook output priority -150;
                ip daddr 10.96.0.0/12 drop
            }
        }
        """
    )
    findings = prove(rig, STANDARD)
    assert broken(findings) == []
    line = "not testable: outbound 10.96.0.0/12 is captured: dropped before it could be seen"
    assert line in not_kept(findings)


def test_a_host_without_routes_says_so(rig: Rig) -> None:
    with netns.Namespace("lonely") as lonely:
        alone = Rig(lonely, rig.neighbour)
        alone.install(STANDARD)
        findings = prove(alone, STANDARD, FACTS._replace(addresses=()))
    assert broken(findings) == []
    assert "not testable: outbound 10.96.0.0/12 is captured: no route" in not_kept(findings)
    kept = {each.expectation.text for each in findings if each.state is State.MET}
    assert "inbound port 8080 is captured (IPv4)" in kept
    assert "inbound port 8080 is captured (IPv6)" in kept


def test_an_address_that_turns_out_to_be_its_own_proves_nothing_and_breaks_nothing(
    rig: Rig,
) -> None:
    """A whole network on `lo` is a host's own, and so is what a route alone says is."""
    redirection = config.Redirection(outbound=cidrs("10.96.0.0/16", "10.97.0.0/16"))
    rig.install(redirection)
    commands = (
        ("address", "10.96.0.7/16", "dev", "lo"),
        ("route", "local", "198.51.100.0/24", "dev", "lo"),
    )
    try:
        for kind, *rest in commands:
            rig.host.ip(kind, "add", *rest)
        findings = prove(rig, redirection)
    finally:
        for kind, *rest in commands:
            rig.host.ip(kind, "del", *rest)
    assert not broken(findings)
    said = "not testable: outbound 10.96.0.0/16 is captured: 10.96.0.1 is an address of this host"
    assert said in not_kept(findings)
    states = {each.expectation.text: each.state for each in findings}
    assert states["outbound 10.97.0.0/16 is captured"] is State.MET


def test_a_host_that_forwards_is_proven_although_the_first_address_is_its_own(rig: Rig) -> None:
    """Its subnet's first one is that of all routers (RFC 4291 2.6.1)."""
    redirection = config.Redirection(outbound=cidrs("fd00:5::/64", "fd00:10::/64"))
    facts = FACTS._replace(addresses=(*FACTS.addresses, ip_address("fd00:5::1")))
    rig.install(redirection)
    rig.host.sysctl("net.ipv6.conf.all.forwarding", "1")
    rig.host.add_address("eth0", "fd00:5::1/64")
    try:
        assert "fd00:5::" in rig.host.ip(
            "-6", "route", "show", "table", "local", "type", "anycast"
        )
        assert not_kept(prove(rig, redirection, facts)) == []
    finally:
        rig.host.ip("address", "del", "fd00:5::1/64", "dev", "eth0")
        rig.host.sysctl("net.ipv6.conf.all.forwarding", "0")


def test_a_host_without_ipv6_is_proven_with_ipv4(rig: Rig) -> None:
    with netns.Namespace("old") as old:
        old.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
        netns.link(old, rig.neighbour, "10.2.0.2/24", "10.2.0.1/24", b_interface="eth1")
        old.ip("route", "add", "default", "via", "10.2.0.1")
        alone = Rig(old, rig.neighbour)
        facts = FACTS._replace(has_ipv6=False, addresses=FACTS.addresses[:0])
        desired = policy.build_ruleset(ALL, facts)
        with alone.kernel() as kernel:
            alone.apply(kernel, desired)
        assert not_kept(prove(alone, ALL, facts)) == []
        # Even if the facts are wrong nothing is called broken.
        assert broken(prove(alone, ALL, facts._replace(has_ipv6=True))) == []


@pytest.mark.parametrize("is_settled", [False, True])
def test_an_address_that_may_be_somebody_elses_is_not_expected_yet(is_settled: bool) -> None:
    with netns.Namespace("host") as host, netns.Namespace("neighbour") as neighbour:
        host.sysctl("net.ipv6.conf.default.accept_dad", "0" if is_settled else "1")
        host.sysctl("net.ipv6.conf.default.dad_transmits", "20")  # one a second
        netns.link(host, neighbour, ["10.1.0.2/24"], ["10.1.0.1/24"])
        host.ip("address", "add", "fd00:1::2/64", "dev", "eth0")
        host.ip("route", "add", "default", "via", "10.1.0.1")
        host.ip("-6", "route", "add", "default", "via", "fd00:1::1")
        young = Rig(host, neighbour)
        young.install(STANDARD)
        show = "from istio_hostagent.host import facts\nprint(*facts.probe_addresses())"
        seen = host.python(show, env={"PYTHONPATH": str(CHECKOUT)})
        known = tuple(map(ip_address, seen.split()))
        assert (ip_address("fd00:1::2") in known) is is_settled
        assert broken(prove(young, STANDARD, FACTS._replace(addresses=known))) == []


def test_nothing_leaves_the_host_and_nobody_is_reached(rig: Rig) -> None:
    rig.install(ALL)
    with (
        rigs.serve(rig) as served,
        capture.Capture(rig.neighbour, "eth0") as wire,
    ):
        assert not_kept(prove(rig, ALL)) == []
        for server in (served.outbound, served.inbound, served.host, served.neighbour):
            assert server.accepted() == 0
        # Something that is sent afterwards marks the end of what could have been seen.
        reply = servers.ask(rig.host, rigs.UNLISTED_V4, 80, user=rigs.PROXY_USER, until=4)
        assert rigs.words(reply) == "neighbour"
        marker = wire.wait_for(lambda segment: segment.is_opening)
        assert marker.destination_port == 80
        openings = wire.openings()
    assert [each.destination_port for each in openings] == [80]


def test_nothing_is_left_behind(rig: Rig) -> None:
    rig.install(STANDARD)
    before = rig.nft("list", "tables")
    # What other tests have left would go by itself, at any moment.
    rig.host.run(["conntrack", "-F"], check=True)
    tracked = rig.host.run(["conntrack", "-C"]).stdout
    prove(rig, STANDARD)
    assert rig.nft("list", "tables") == before
    assert rig.host.run(["conntrack", "-C"]).stdout == tracked


def test_connections_of_others_pass_while_probes_run(rig: Rig) -> None:
    rig.install(STANDARD)
    with (
        rigs.serve(rig),
        servers.Traffic(
            rig.host,
            rigs.target(rigs.CAPTURED_V4, 80),
            needle=rigs.CAPTURED_V4,
            interval_s=0.0,
            user=rigs.APP,
        ) as flow,
    ):
        for _ in range(10):
            assert not_kept(prove(rig, STANDARD)) == []
        tally = flow.stop()
    assert tally.failed == 0, tally.failures


def test_sockets_are_used_again_whatever_became_of_them(rig: Rig) -> None:
    """One worker makes them, once; a route that was missing in between spoils none."""
    rig.install(STANDARD)
    with contextlib.closing(rigs.Packets(rig.host)) as packets:
        assert not_kept(packets.findings(STANDARD)) == []
        with WorkerKiller(rig.host, "probe_sockets") as killer:
            for _ in range(3):
                assert not_kept(packets.findings(STANDARD)) == []
            rig.host.ip("route", "delete", "default")
            rig.host.ip("-6", "route", "delete", "default")
            assert any("no route" in line for line in not_kept(packets.findings(STANDARD)))
            rig.host.ip("route", "add", "default", "via", rigs.NEIGHBOUR_V4)
            rig.host.ip("-6", "route", "add", "default", "via", rigs.NEIGHBOUR_V6)
            assert not_kept(packets.findings(STANDARD)) == []
            assert not killer.killed.is_set()
        rig.nft(text="insert rule inet istio_hostagent ISTIO_OUTPUT meta skuid 0 return\n")
        expected = "outbound 10.96.0.1 is captured for root too: the connection was unchanged"
        assert f"broken: {expected}" in broken(packets.findings(STANDARD))


def test_more_packets_than_sockets_go_one_round_after_another(rig: Rig) -> None:
    many = STANDARD._replace(outbound=cidrs(*(f"10.{i}.0.0/16" for i in range(2, 250))))
    rig.install(many)
    findings = prove(rig, many)
    assert len(findings) > 2 * probepool.MAX_SOCKETS
    assert not_kept(findings) == []


def test_another_user_of_the_proxy_gets_sockets_of_its_own(rig: Rig) -> None:
    rig.install(STANDARD)
    with contextlib.closing(rigs.Packets(rig.host)) as packets:
        assert not_kept(packets.findings(STANDARD)) == []
        other = FACTS._replace(proxy_uid=rigs.APP, proxy_gid=rigs.APP)
        texts = {str(finding) for finding in packets.findings(STANDARD, other)}
        expected = "outbound 10.96.0.1 is left alone for the proxy user"
        captured = "the connection was sent to 127.0.0.1 port 15001"
        assert f"broken: {expected}: {captured}" in texts


def test_nobody_else_gets_a_port_whose_packets_are_dropped(rig: Rig) -> None:
    rig.install(STANDARD)
    # Packets from outside are not seen: their round takes its whole time.
    rig.nft(
        text="""table ip deaf {
            chain input {
                type filter hook prerouting priority -400;
                ip saddr 192.0.2.1 drop
            }
        }
        """
    )
    with contextlib.closing(rigs.Packets(rig.host)) as packets:
        packets.findings(STANDARD)
        watched: list[int] = []
        held: list[int] = []
        for _ in range(20):
            proof = threading.Thread(target=packets.findings, args=(STANDARD,))
            proof.start()
            watched = ports_of_probes(rig)
            held = [port for port in watched if not is_free(rig, port)]
            is_whole = bool(watched) and ports_of_probes(rig) == watched
            proof.join()
            if is_whole:  # else the machine was too busy to look in time
                break
        else:
            pytest.fail("no proof was seen from its beginning to its end")
        assert held == watched


def ports_of_probes(rig: Rig) -> list[int]:
    """The ports from which packets of IPv4 are recorded and dropped now."""
    shown = rig.nft("list", "ruleset")
    found = re.search(r"set output_v4 \{.*?elements = \{([^}]*)\}", shown, re.DOTALL)
    return [int(port) for port in re.findall(r"\d+", found[1])] if found else []


def is_free(rig: Rig, port: int) -> bool:
    try:
        rig.host.bind("0.0.0.0", port).close()
    except OSError:
        return False
    return True


def test_whoever_dies_among_its_packets_leaves_nothing(rig: Rig) -> None:
    many = STANDARD._replace(outbound=cidrs(*(f"10.{i}.0.0/16" for i in range(2, 250))))
    rig.install(many)
    before = rig.nft("list", "tables")
    process = rig.host.popen([PYTHON, "-c", _PROBE_FOR_EVER], cwd=CHECKOUT)
    try:
        deadline = time.monotonic() + 60
        while rig.nft("list", "tables") == before and process.poll() is None:
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert rig.nft("list", "tables") == before


# A table with a packet that nobody sees: it stays until its maker dies.
_PROBE_FOR_EVER = """
import signal
from istio_hostagent.host import probetable
from istio_hostagent.host.nfnetlink import connection
source = (probetable.Source(is_v6=False, port=4000),)
table = probetable.ProbeTable(connection.Connection(), source, source)
signal.pause()
"""


def test_two_senders_at_once_do_not_disturb_each_other(rig: Rig) -> None:
    rig.install(STANDARD)
    found: list[list[expectations.Finding]] = []

    def work() -> None:
        with contextlib.closing(rigs.Packets(rig.host)) as packets:
            found.extend(packets.findings(STANDARD) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert [not_kept(findings) for findings in found] == [[]] * 10


def test_without_sockets_nothing_is_called_proven(rig: Rig) -> None:
    rig.install(STANDARD)
    with (
        contextlib.closing(rigs.Packets(rig.host)) as packets,
        WorkerKiller(rig.host, "probe_sockets"),
        pytest.raises(ChildFailed, match="SIGKILL"),
    ):
        packets.findings(STANDARD)


@pytest.mark.parametrize(
    ("source", "destination"), [("10.1.0.9", "10.1.0.2"), ("fd00:1::9", "fd00:1::2")]
)
def test_the_packets_are_whole(rig: Rig, source: str, destination: str) -> None:
    """A server answers: the kernel takes no packet with a wrong checksum."""
    rig.neighbour.add_address("eth0", f"{source}/{64 if ':' in source else 24}")
    with rigs.serve(rig), capture.Capture(rig.neighbour, "eth0") as wire:
        frame = synpacket.build_frame(ip_address(source), 40000, ip_address(destination), 8081)
        macs = [mac(rig.host), mac(rig.neighbour)]
        whole = b"".join(macs) + frame[12:]

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
                sock.sendto(whole, ("eth0", 0))

        rig.neighbour.inside(send)
        answer = wire.wait_for(lambda segment: segment.source_port == 8081)
    assert not answer.is_reset
    assert model.MAIN_TABLE not in rig.nft("list", "tables")


def mac(space: netns.Namespace) -> bytes:
    (shown,) = json.loads(space.ip("-j", "link", "show", "dev", "eth0"))
    return bytes.fromhex(shown["address"].replace(":", ""))


ZONES = {
    "both": ("prerouting", "output"),
    "outbound": ("output",),
    "inbound": ("prerouting",),
}


@pytest.mark.parametrize("hooks", ZONES.values(), ids=ZONES)
def test_a_tracking_zone_of_somebody_else_is_found_and_named(
    rig: Rig, hooks: tuple[str, ...]
) -> None:
    """The proxy asks for original destinations in the default zone alone, and finds none."""
    rig.install(STANDARD)
    rig.nft(text="table inet strange { }\n")
    for hook in hooks:
        chain = f"type filter hook {hook} priority raw; ct zone set 5;"
        rig.nft(text=f"table inet strange {{ chain {hook} {{ {chain} }}; }}\n")
    findings = broken(prove(rig, STANDARD))
    assert findings
    for hook in hooks:
        assert all(f"table inet strange chain {hook}" in text for text in findings)
    assert any("is captured" in text for text in findings)
    assert all("zone 5" in text for text in findings)


def test_a_tracking_zone_of_iptables_is_found_and_named(rig: Rig) -> None:
    rig.install(STANDARD)
    zone = ["-t", "raw", "-A", "OUTPUT", "-p", "tcp", "-j", "CT", "--zone", "7"]
    rig.host.run(["iptables-nft", *zone], check=True)
    findings = broken(prove(rig, STANDARD))
    assert findings
    assert all("zone 7 by table ip raw chain OUTPUT" in text for text in findings)


def test_a_zone_of_the_first_direction_alone_does_no_harm(rig: Rig) -> None:
    rig.install(STANDARD)
    chain = "type filter hook output priority raw; ct original zone set 5;"
    rig.nft(text=f"table inet strange {{ chain c {{ {chain} }}; }}\n")
    assert not_kept(prove(rig, STANDARD)) == []
