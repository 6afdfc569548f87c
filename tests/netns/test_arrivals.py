"""A captured connection arrives at the proxy, or the rule that drops it is named.

What the frames show is held against a real neighbour: he calls before anything is captured and
after, and each frame must fare as his connection did. Firewalls are as their tools make them on
Debian 12: `firewalls/ufw.*` after `ufw allow 22/tcp` and `ufw allow 8080/tcp`,
`firewalls/firewalld.nft` as it comes.
"""

import contextlib
import dataclasses
import errno
import functools
import re
import signal
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from istio_hostagent.config.model import CidrSet, Owners, PortSet, Redirection
from istio_hostagent.errors import KernelBusy
from istio_hostagent.host import arrivals as frames
from istio_hostagent.host import linkpaths, probedevice, rtmonitor
from istio_hostagent.redirect import probes
from istio_hostagent.redirect.expectations import Arrival, Fate, Finding, Sender, State
from tests.lab import capture, netns, servers
from tests.lab.host import CHECKOUT, PYTHON
from tests.lab.waiting import eventually
from tests.netns import rig as rigs
from tests.netns.rig import FACTS, HOST_V4, HOST_V6, Rig
from tests.unit.samples import cidrs, ports

FIREWALLS = Path(__file__).parent / "firewalls"
CAPTURED = Redirection(inbound=ports(8080, 8081))
DESTINATIONS = [(address, port) for address in (HOST_V4, HOST_V6) for port in (8080, 8081)]
SAMPLE = (8080, 8081)


def strict(*rules: str, hook: str = "input priority filter", policy: str = "drop") -> str:
    """A table of somebody who writes rules by hand."""
    lines = "".join(f"        {rule}\n" for rule in rules)
    return f"""table inet filter {{
    chain input {{
        type filter hook {hook}; policy {policy};
        ct state established,related accept
        iifname "lo" accept
        meta l4proto ipv6-icmp accept
{lines}    }}
}}
"""


UFW = "ufw"
FIREWALLD = (FIREWALLS / "firewalld.nft").read_text()
# Whose rules they are, and a part of the command that lets captured connections in.
CASES: dict[str, tuple[str, str]] = {
    "none": ("", ""),
    "policy": (
        strict("tcp dport { 22, 8080 } accept"),
        "nft insert rule inet filter input ct status dnat tcp dport 15006 accept",
    ),
    "policy-that-knows-of-capture": (strict("tcp dport { 22, 8080, 15006 } accept"), ""),
    "translated-only": (strict("tcp dport 22 accept", "ct status dnat accept"), ""),
    "original-port": (strict("meta l4proto tcp ct original proto-dst 8080 accept"), ""),
    "of-the-interface": (strict('iifname "eth0" tcp dport { 8080, 15006 } accept'), ""),
    "not-of-the-interface": (
        strict('iifname "eth0" tcp dport 15006 drop', "accept"),
        "nft insert rule inet filter input ct status dnat tcp dport 15006 accept",
    ),
    "of-another-interface": (strict('iifname != "eth0" accept', "tcp dport 8080 accept"), "nft "),
    "by-source": (
        strict("ip saddr 10.1.0.0/24 accept", "ip6 saddr fd00:1::/64 tcp dport 8080 accept"),
        "nft ",
    ),
    "by-another-source": (strict("ip saddr 10.9.0.0/16 accept", "tcp dport 8081 accept"), "nft "),
    "not-by-source": (strict("ip saddr 10.1.0.0/24 tcp dport 15006 reject", "accept"), "nft "),
    "no-way-back": (
        strict(
            "fib saddr . iif oif missing drop", hook="prerouting priority raw", policy="accept"
        ),
        "",
    ),
    "before-translation": (
        strict("tcp dport 8080 drop", hook="prerouting priority mangle", policy="accept"),
        "",
    ),
    "rejected": (strict("tcp dport 15006 reject with tcp reset", policy="accept"), "nft "),
    UFW: (UFW, "ufw allow 15006/tcp"),
    "firewalld": (FIREWALLD, ""),
    "firewalld-open": (
        FIREWALLD.replace("tcp dport 22 accept", "tcp dport { 22, 8080 } accept"),
        "",
    ),
    "iptables-legacy": (
        "legacy",
        "tables-legacy -I INPUT -p tcp --dport 15006 -m conntrack --ctstate DNAT -j ACCEPT",
    ),
}


@pytest.fixture(autouse=True)
def _clean(site: Rig) -> Iterator[None]:
    yield
    site.nft("flush", "ruleset")
    for program in ("iptables-legacy", "ip6tables-legacy"):
        site.host.run([program, "-P", "INPUT", "ACCEPT"], check=True)
        site.host.run([program, "-F"], check=True)
    site.clean()


def load(rig: Rig, rules: str) -> None:
    if rules == UFW:
        for version, program in (("v4", "iptables"), ("v6", "ip6tables")):
            saved = (FIREWALLS / f"ufw.{version}").read_text()
            rig.host.run([f"{program}-nft-restore"], stdin=saved, check=True)
    elif rules == "legacy":
        for program, icmp in (("iptables-legacy", "icmp"), ("ip6tables-legacy", "icmpv6")):
            for words in (f"-p {icmp} -j ACCEPT", "-p tcp --dport 8080 -j ACCEPT"):
                rig.host.run([program, "-A", "INPUT", *words.split()], check=True)
            rig.host.run([program, "-P", "INPUT", "DROP"], check=True)
    elif rules:
        rig.nft(text=rules)


def called(rig: Rig, places: Sequence[tuple[str, int]] = DESTINATIONS) -> list[str]:
    """Who answers the neighbour."""
    targets = [servers.Target(*place, payload="", timeout_s=0.5, until=4) for place in places]
    replies = servers.ask_all(rig.neighbour, targets)
    # A server that has let somebody in may take its time; what a firewall drops lets nobody in.
    slow = [dataclasses.replace(target, timeout_s=5.0) for target in targets]
    return [
        rigs.words(
            servers.ask_all(rig.neighbour, [again])[0] if reply.outcome == "silent" else reply
        )
        for again, reply in zip(slow, replies, strict=True)
    ]


def on_link(findings: Sequence[Finding]) -> list[Finding]:
    return [each for each in findings if each.expectation.sender is Sender.ON_LINK]


def arrivals(rig: Rig, redirection: Redirection = CAPTURED) -> dict[tuple[str, int], Arrival]:
    """What became of the frames, by where they were sent."""
    made = probes.build_expectations(redirection, FACTS)
    with contextlib.closing(rigs.Packets(rig.host)) as packets:
        outcomes = packets.outcomes(made)
    return {
        (each.destination, each.port): outcome.arrival
        for each, outcome in zip(made, outcomes, strict=True)
        if each.sender is Sender.ON_LINK and outcome.arrival is not None
    }


def findings(rig: Rig, redirection: Redirection = CAPTURED) -> list[Finding]:
    with contextlib.closing(rigs.Packets(rig.host)) as packets:
        return packets.findings(redirection)


@pytest.mark.parametrize("case", CASES)
def test_a_frame_fares_as_the_connection_of_a_neighbour(site: Rig, case: str) -> None:
    rules, command = CASES[case]
    load(site, rules)
    before = called(site)
    site.install(CAPTURED)
    after = called(site)
    found = arrivals(site)
    assert [found[each].direct is Fate.ARRIVED for each in DESTINATIONS] == [
        word == "host" for word in before
    ]
    assert [found[each].captured is Fate.ARRIVED for each in DESTINATIONS] == [
        word == "inbound" for word in after
    ]
    shut = [each for each in findings(site) if each.is_shut]
    # Shut is what answers before joining and does not after.
    assert len(shut) == sum(
        b == "host" and a != "inbound" for b, a in zip(before, after, strict=True)
    )
    assert all(each.state is State.BROKEN and command in each.detail for each in shut)
    if command:
        assert shut


@pytest.mark.parametrize(
    ("case", "dropper"),
    [
        ("policy", "the policy of chain inet filter input"),
        ("ufw", "the policy of chain ip filter INPUT"),
        (
            "not-of-the-interface",
            'chain inet filter input (iifname "eth0" tcp dport 15006 drop)',
        ),
        ("iptables-legacy", "something that nf_tables does not show (iptables-legacy, eBPF)"),
    ],
)
def test_who_drops_it_is_named(site: Rig, case: str, dropper: str) -> None:
    load(site, CASES[case][0])
    site.install(CAPTURED)
    shut = [each for each in findings(site) if each.is_shut]
    assert dropper in shut[0].detail
    assert re.search(r"from 10\.1\.0\.\d+ by eth0", shut[0].detail)


@pytest.mark.parametrize("case", ["policy", "ufw", "not-of-the-interface", "iptables-legacy"])
def test_the_command_that_is_named_lets_it_in(site: Rig, case: str) -> None:
    load(site, CASES[case][0])
    site.install(CAPTURED)
    commands = {each.detail.partition("let it in: ")[2] for each in findings(site) if each.is_shut}
    for command in commands:
        if command == "ufw allow 15006/tcp":  # what it does, without its files
            for program, chain in (("iptables", "ufw"), ("ip6tables", "ufw6")):
                rule = f"-A {chain}-user-input -p tcp --dport 15006 -j ACCEPT"
                site.host.run([f"{program}-nft", *rule.split()], check=True)
        else:
            site.host.run(command.split(), check=True)
    assert not [each for each in findings(site) if each.is_shut]
    assert called(site)[0] == "inbound"


def test_a_port_that_is_closed_with_and_without_capture_is_no_mistake(site: Rig) -> None:
    """Whoever captures every port has most of them closed."""
    everything = Redirection(inbound=PortSet(is_all=True))
    site.nft(text=strict("meta l4proto tcp ct original proto-dst { 22, 8080 } accept"))
    site.install(everything)
    found = findings(site, everything)
    assert [str(each) for each in found if each.state is State.BROKEN] == []
    closed = [each for each in on_link(found) if "captured or not" in each.detail]
    assert len(closed) > 10


def test_a_port_that_is_open_to_others_by_source_is_not_called_proven(site: Rig) -> None:
    """A policy of drop, and a rule for somebody from whom no frame of ours comes."""
    site.nft(text=strict("ip saddr 172.16.0.0/12 tcp dport 8080 accept"))
    site.install(CAPTURED)
    found = [each for each in on_link(findings(site)) if each.expectation.port == 8080]
    assert found
    assert {each.state for each in found} == {State.NOT_TESTABLE}
    assert all("others may be let in" in each.detail for each in found)


@pytest.mark.parametrize("outbound", [cidrs(), cidrs("10.1.0.0/24", "fd00:1::/64")])
@pytest.mark.parametrize("groups", [None, ()])
def test_an_own_address_on_the_interface_of_guests_is_outbound_for_them(
    site: Rig, outbound: CidrSet, groups: tuple[int, ...] | None
) -> None:
    redirection = CAPTURED._replace(
        outbound=outbound, owners=Owners(groups=groups), guest_interfaces=("eth*",)
    )
    site.install(redirection)
    found = findings(site, redirection)
    assert len(on_link(found)) >= 2
    assert [str(each) for each in found if each.state is not State.MET] == []
    # Rules that know of no guests are found.
    site.install(CAPTURED)
    assert [each for each in on_link(findings(site, redirection)) if each.state is State.BROKEN]


def test_what_capture_opens_is_said(site: Rig) -> None:
    site.nft(text=FIREWALLD)
    site.install(CAPTURED)
    details = {each.detail for each in on_link(findings(site))}
    assert all("of chain inet firewalld filter_IN_public" in each for each in details)
    assert all(each.endswith("drops it without capture") for each in details)


@pytest.mark.parametrize("is_forwarding", [True, False])
def test_a_published_port_arrives_with_and_without_capture(site: Rig, is_forwarding: bool) -> None:
    with netns.Namespace("container") as container:
        netns.link(site.host, container, "10.3.0.1/24", "10.3.0.2/24", a_interface="docker0")
        try:
            site.host.sysctl("net.ipv4.ip_forward", str(int(is_forwarding)))
            load(site, UFW)
            site.nft(
                text="""table ip nat {
                    chain PREROUTING {
                        type nat hook prerouting priority -100;
                        fib daddr type local tcp dport 8081 dnat to 10.3.0.2:80
                    }
                }
                table ip docker {
                    chain FORWARD {
                        type filter hook forward priority -1; policy accept;
                    }
                }
                """
            )
            site.host.run(["iptables-nft", "-I", "FORWARD", "-j", "ACCEPT"], check=True)
            site.install(CAPTURED)
            found = arrivals(site)
            with capture.Capture(container, "eth0") as wire:
                arrivals(site)
                assert wire.openings() == []
        finally:
            site.host.sysctl("net.ipv4.ip_forward", "0")
    # Without ufw's word for 8081 a neighbour reaches the container, and not its port on the host.
    assert found[HOST_V4, 8081].direct is (Fate.ARRIVED if is_forwarding else Fate.LOST)
    assert found[HOST_V4, 8081].captured is Fate.DROPPED


@pytest.mark.parametrize("answer", ["reject", "reject with tcp reset"])
def test_nothing_is_answered_to_frames(site: Rig, answer: str) -> None:
    site.nft(text=strict(f"tcp dport 15006 {answer}", f"tcp dport 8081 {answer}", policy="accept"))
    site.install(CAPTURED)
    paths = site.host.inside(lambda: linkpaths.find_paths({HOST_V4, HOST_V6}))
    sources = {str(each.source) for each in paths.values()}
    # Somebody has these addresses, so that an answer would come to him.
    for source in sources:
        site.neighbour.add_address("eth0", f"{source}/{64 if ':' in source else 24}")
    try:
        with capture.Capture(site.neighbour, "eth0") as wire:
            found = arrivals(site)
            # Something that is sent afterwards marks the end of what could have been seen.
            servers.ask(site.host, rigs.UNLISTED_V4, 80, user=rigs.PROXY_USER, until=4)
            wire.wait_for(lambda segment: segment.destination_port == 80)
            sent = [each.data for each in wire.frames()]
    finally:
        for source in sources:
            prefix = 64 if ":" in source else 24
            site.neighbour.ip("address", "delete", f"{source}/{prefix}", "dev", "eth0")
    assert {each.captured for each in found.values()} == {Fate.DROPPED}
    assert {each.source for each in found.values()} == sources
    assert not [each for each in sent if any(ip_address(s).packed in each for s in sources)]


def everything_about_the_network(space: netns.Namespace) -> str:
    shown = [space.ip("address"), space.ip("link")]
    shown = [
        re.sub(rf"(?m)^\d+: {probedevice.NAME_PREFIX}.*\n(?:    .*\n)*", "", each)
        for each in shown
    ]
    routes = [space.ip(family, "route", "show", "table", "all") for family in ("-4", "-6")]
    rules = [space.ip(family, "rule") for family in ("-4", "-6")]
    return "\n".join((*shown, *routes, *rules))


def devices(space: netns.Namespace) -> list[str]:
    return re.findall(rf"{probedevice.NAME_PREFIX}\d+", space.ip("-brief", "link"))


def test_no_address_and_no_route_changes_and_the_device_goes_with_its_maker(site: Rig) -> None:
    before = everything_about_the_network(site.host)
    site.install(CAPTURED)
    site.host.run(["ip", "address", "delete", "::6/128", "dev", "lo"], check=False)
    site.host.run(["conntrack", "-F"], check=True)
    tracked = site.host.run(["conntrack", "-C"])
    with contextlib.closing(rigs.Packets(site.host)) as packets:
        packets.findings(CAPTURED)
        assert everything_about_the_network(site.host) == before
        assert len(devices(site.host)) == 1
    assert devices(site.host) == []
    assert site.host.run(["conntrack", "-C"]).stdout == tracked.stdout


def test_whoever_is_killed_leaves_no_device(site: Rig) -> None:
    process = site.host.popen([PYTHON, "-c", _KEEP_DEVICE], cwd=CHECKOUT)
    try:
        eventually(lambda: devices(site.host) != [], "the device is there")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert devices(site.host) == []


_KEEP_DEVICE = """
import signal
from istio_hostagent.host import probedevice
kept = probedevice.make()
signal.pause()
"""


def test_a_device_that_somebody_takes_away_is_made_anew(site: Rig) -> None:
    site.install(CAPTURED)
    with contextlib.closing(rigs.Packets(site.host)) as packets:
        assert on_link(packets.findings(CAPTURED))[0].state is State.MET
        site.host.ip("link", "delete", *devices(site.host))
        assert on_link(packets.findings(CAPTURED))[0].state is State.NOT_TESTABLE
        assert on_link(packets.findings(CAPTURED))[0].state is State.MET


def test_a_device_of_probes_is_no_change_of_the_network(site: Rig) -> None:
    monitor = site.host.inside(rtmonitor.Monitor)
    with contextlib.closing(monitor):
        device = site.host.inside(probedevice.make)
        device.close()
        assert monitor.read() == rtmonitor.Change(0)


@pytest.mark.parametrize("rp_filter", ["0", "1", "2"])
def test_the_reverse_path_filter_treats_frames_as_it_treats_neighbours(
    site: Rig, rp_filter: str
) -> None:
    site.install(CAPTURED)
    try:
        for name in ("all", "eth0"):
            site.host.sysctl(f"net.ipv4.conf.{name}.rp_filter", rp_filter)
        found = arrivals(site)
    finally:
        for name in ("all", "eth0"):
            site.host.sysctl(f"net.ipv4.conf.{name}.rp_filter", "0")
    assert {each.captured for each in found.values()} == {Fate.ARRIVED}


@pytest.mark.parametrize("interface", ["lo", "bridge7"])
def test_an_address_alone_in_its_network_is_reached_by_the_default_route(
    site: Rig, interface: str
) -> None:
    """Such as one of a balancer, or of this host where every address is routed."""
    alone = {"198.18.7.7": rigs.NEIGHBOUR_V4, "fd00:7::7": rigs.NEIGHBOUR_V6}
    if interface != "lo":
        site.host.ip("link", "add", interface, "type", "bridge")
        site.host.ip("link", "set", interface, "up")
    try:
        for address, router in alone.items():
            length = 128 if ":" in address else 32
            site.host.ip("address", "add", f"{address}/{length}", "dev", interface)
            find = functools.partial(linkpaths.find_paths, {address})
            path = site.host.inside(find)[address]
            assert (path.name, str(path.source)) == ("eth0", router)
        site.nft(text=strict('iifname "eth0" tcp dport { 8080, 15006 } accept'))
        facts = FACTS._replace(addresses=tuple(map(ip_address, alone)))
        site.install(CAPTURED)
        with contextlib.closing(rigs.Packets(site.host)) as packets:
            found = on_link(packets.findings(CAPTURED, facts))
    finally:
        if interface == "lo":
            for address in alone:
                length = 128 if ":" in address else 32
                site.host.ip("address", "delete", f"{address}/{length}", "dev", "lo")
        else:
            site.host.ip("link", "delete", interface)
    of_8080 = [each for each in found if each.expectation.port == 8080]
    assert [(each.state, each.detail) for each in of_8080] == [(State.MET, "")] * 2


def test_where_no_frame_has_a_way_back_nothing_is_claimed(site: Rig) -> None:
    """An interface whose network is reached by another one, and that lets in no such packet."""
    site.install(CAPTURED)
    facts = FACTS._replace(addresses=FACTS.addresses[:1], has_ipv6=False)
    with netns.Namespace("elsewhere") as elsewhere:
        netns.pair(site.host, elsewhere, "eth7", "eth0")
        site.host.ip("address", "delete", f"{HOST_V4}/24", "dev", "eth0")
        site.host.ip("address", "add", "10.1.0.9/24", "dev", "eth0")
        site.host.ip("address", "add", f"{HOST_V4}/24", "dev", "eth7")
        site.host.sysctl("net.ipv4.conf.eth7.rp_filter", "1")
        try:
            with contextlib.closing(rigs.Packets(site.host)) as packets:
                found = on_link(packets.findings(CAPTURED, facts))
        finally:
            site.host.ip("link", "delete", "eth7")
            site.host.ip("address", "delete", "10.1.0.9/24", "dev", "eth0")
            site.host.ip("address", "add", f"{HOST_V4}/24", "dev", "eth0")
            site.host.ip("route", "replace", "default", "via", rigs.NEIGHBOUR_V4)
    assert {each.state for each in found} == {State.NOT_TESTABLE}
    assert "reverse-path filter" in found[0].detail


def test_without_a_device_what_could_not_be_tested_is_said(site: Rig) -> None:
    """As in a container that has no /dev/net/tun."""
    site.install(CAPTURED)
    hidden = f'mount -t tmpfs tmpfs /dev/net && exec {PYTHON} -c "$1"'
    done = site.host.run(
        ["unshare", "-m", "sh", "-c", hidden, "sh", _FIND], cwd=CHECKOUT, check=True
    )
    lines = [line for line in done.stdout.splitlines() if "arrives at the proxy" in line]
    assert len(lines) == len(DESTINATIONS)
    assert all(line.startswith("not testable: ") and "/dev/net/tun" in line for line in lines)


_FIND = """
from tests.netns import rig as rigs
from tests.unit.samples import cidrs, ports
from istio_hostagent.config.model import Redirection
CAPTURED = Redirection(inbound=ports(8080, 8081))
class Here:
    def inside(self, call):
        return call()
for each in rigs.Packets(Here()).findings(CAPTURED):
    print(each)
"""


class _BusyDevice(probedevice.Device):
    """The kernel does not answer where it is to lead."""

    def __init__(self) -> None:
        pass

    def send(self, frame: bytes, interface: int) -> None:
        raise KernelBusy("the kernel did not answer a question over netlink")


def test_a_kernel_that_is_busy_fails_the_frames_and_not_the_proof(site: Rig) -> None:
    made = probes.build_expectations(CAPTURED, FACTS)
    own = {0: next(each for each in made if each.sender is Sender.ON_LINK)}

    def send() -> tuple[int, dict[int, int]]:
        sent = frames.Arrivals(own)
        return sent.send(_BusyDevice()), sent.failed

    assert site.host.inside(send) == (errno.EIO, {0: errno.EIO})
