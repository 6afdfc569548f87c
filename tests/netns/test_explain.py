"""`explain` on a host: what it says of packets, from which lines of which files, and how it refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import netns
from tests.lab.host import CHECKOUT, Host, proxy_user
from tests.netns import conftest

ADDRESS, NEIGHBOUR = "10.1.0.2", "10.1.0.9"
DOCUMENT = CHECKOUT / "docs" / "json.md"


@pytest.fixture(scope="module")
def beside() -> Iterator[netns.Namespace]:
    with netns.Namespace("beside") as made:
        yield made


@pytest.fixture(scope="module")
def host(beside: netns.Namespace) -> Iterator[Host]:
    """A host with files and one link, and no agent."""
    with netns.Namespace("explained") as space, Host(space) as made:
        netns.link(space, beside, [f"{ADDRESS}/24", "fd00:1::2/64"], [f"{NEIGHBOUR}/24"])
        made.write_cluster(
            CA_ADDR="10.1.0.1:15012",
            ISTIO_SERVICE_CIDR="10.0.0.0/8,fd00::/8",
            ISTIO_SERVICE_EXCLUDE_CIDR="10.1.0.64/26",
        )
        made.write_sidecar("# ports\nISTIO_INBOUND_PORTS=8080\n")
        yield made


def explain(host: Host, *words: str) -> dict[str, Any]:
    return dict(json.loads(host.verb("explain", *words, "--json").stdout))


def test_it_says_who_decides_and_where_that_is_written(host: Host) -> None:
    said = host.verb("explain", "tcp", "10.1.0.70:443").stdout.splitlines()
    assert said[0] == (
        "tcp 10.1.0.70:443 from an ordinary user (uid 65534, gid 65534) by eth0: goes to its"
        " destination directly, not through the proxy"
    )
    assert re.fullmatch(r"  decided by: ISTIO_OUTPUT rule \d+, excluded destinations", said[1])
    assert said[2] == f"  because of: ISTIO_SERVICE_EXCLUDE_CIDR ({host.cluster_env}:3)"
    assert said[3].startswith("  rules met: istio_hostagent: output rule 1, ISTIO_OUTPUT rule ")
    assert said[4].startswith("  without our rules: the guard lets it go to its destination")


@pytest.mark.parametrize(
    ("words", "verdict", "captured_at", "key"),
    [
        (["tcp", "10.1.0.9:443"], "proxy", 15001, "ISTIO_SERVICE_CIDR"),
        (["tcp", "[fd00:1::9]:443"], "proxy", 15001, "ISTIO_SERVICE_CIDR"),
        (["tcp", "10.1.0.9:443", "--from-user", "root"], "proxy", 15001, "ISTIO_SERVICE_CIDR"),
        (["udp", "10.1.0.9:53"], "direct", 0, "ISTIO_META_DNS_CAPTURE"),
        (["tcp", f"{ADDRESS}:8080", "--from", NEIGHBOUR], "proxy", 15006, "ISTIO_INBOUND_PORTS"),
        (["tcp", f"{ADDRESS}:80", "--from", NEIGHBOUR], "direct", 0, "ISTIO_INBOUND_PORTS"),
        (["tcp", "10.1.0.9:443", "--from-user", str(proxy_user()[0])], "direct", 0, ""),
        (["tcp", f"{ADDRESS}:80"], "direct", 0, ""),
    ],
)
def test_what_becomes_of_a_packet(
    host: Host, words: list[str], verdict: str, captured_at: int, key: str
) -> None:
    found = explain(host, *words)
    assert (found["verdict"], found["captured_at"]) == (verdict, captured_at)
    assert [each["key"] for each in found["settings"]] == ([key] if key else [])


def test_without_a_user_it_is_an_application_and_with_one_the_group_is_the_users(
    host: Host,
) -> None:
    packet = explain(host, "tcp", "10.1.0.9:443", "--from-user", "www-data")["packet"]
    assert (packet["uid"], packet["gid"], packet["interface"]) == (33, 33, "eth0")
    packet = explain(host, "tcp", "10.1.0.9:443", "--from-group", "4711")["packet"]
    assert (packet["uid"], packet["gid"]) == (65534, 4711)
    packet = explain(host, "tcp", f"{ADDRESS}:80", "--from", NEIGHBOUR)["packet"]
    assert (packet["uid"], packet["gid"], packet["interface"]) == (None, None, "eth0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tcp", "example.com:80"], "'example.com' is no address"),
        (["tcp", "10.0.0.5"], "'10.0.0.5' has no port: write ADDRESS:PORT"),
        (["tcp", "fd00::1:80"], "write an IPv6 address in brackets"),
        (["tcp", "10.0.0.5:0"], "'0' is no port"),
        (["icmp", "10.0.0.5:1"], "'icmp' is neither tcp nor udp"),
        (["tcp", "10.0.0.5:1", "--from-user", "nosuch"], "no user nosuch in /etc/passwd"),
        (["tcp", "10.0.0.5:1", "--from-group", "nosuch"], "no group nosuch in /etc/group"),
        (["tcp", "10.0.0.5:1", "--from", "fd00::9"], "are not of one IP version"),
        (["tcp", "10.0.0.5:1", "--from", ADDRESS], f"{ADDRESS} is an address of this host"),
        (["tcp", "10.0.0.5:1", "--from", "203.0.113.9"], "there is no route to 203.0.113.9"),
        (
            ["tcp", "10.0.0.5:1", "--from", NEIGHBOUR, "--from-user", "root"],
            "what comes --from another host has no user, group or unit here",
        ),
        (
            ["tcp", "10.0.0.5:1", "--from-unit", "a.timer"],
            "--from-unit: 'a.timer' has no processes: name the unit that it starts",
        ),
        (
            ["tcp", "10.0.0.5:1", "--from-unit", "a.service", "--live"],
            "--live sends from this session, and so never --from-unit",
        ),
        (["tcp"], "the following arguments are required: ADDRESS:PORT"),
        ([], "the following arguments are required: PROTOCOL, ADDRESS:PORT"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    host: Host, words: list[str], message: str
) -> None:
    done = host.verb("explain", *words, is_checked=False)
    assert done.returncode == 64
    assert message in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def test_what_is_missing_on_this_host_is_said(host: Host) -> None:
    found = explain(host, "tcp", "203.0.113.9:80")
    assert found["notes"] == ["this host has no route to 203.0.113.9"]
    found = explain(host, "tcp", "10.1.0.9:80", "--interface", "eth7")
    assert found["notes"] == ["this host has no interface eth7 now"]


@pytest.fixture
def applied(host: Host) -> Iterator[Host]:
    """The host with its rules in the kernel."""
    host.verb("apply")
    yield host
    host.namespace.run(["nft", "flush", "ruleset"])
    host.verb("clean")


LIVE = (
    "tcp 10.1.0.9:443",
    "tcp 10.1.0.9:443 --from-user 4711 --from-group 4712",
    "tcp 10.1.0.70:443",
    "tcp [fd00:1::9]:443",
    "udp 10.1.0.9:53",
    f"tcp {ADDRESS}:80",
    f"tcp 10.1.0.9:443 --from-user {proxy_user()[0]}",
    f"tcp {ADDRESS}:80 --from-user {proxy_user()[0]}",
    f"tcp {ADDRESS}:8080 --from {NEIGHBOUR}",
    f"tcp {ADDRESS}:22 --from {NEIGHBOUR}",
    "tcp [fd00:1::2]:8080 --from fd00:1::9",
)


def _watch(beside: netns.Namespace) -> None:
    """Count what comes out of the host, from now on."""
    rule = "meta l4proto { tcp, udp } counter"
    chain = f"chain c {{ type filter hook prerouting priority -400; {rule}; }}"
    text = f"table inet seen\ndelete table inet seen\ntable inet seen {{ {chain}; }}\n"
    beside.run(["nft", "-f", "-"], stdin=f"table inet seen {{ }}\n{text}")


def _seen(beside: netns.Namespace) -> int:
    listing = beside.run(["nft", "list", "table", "inet", "seen"]).stdout
    found = re.search(r"counter packets (\d+)", listing)
    assert found is not None
    return int(found[1])


def test_the_kernel_meets_the_rules_that_the_model_names(
    applied: Host, beside: netns.Namespace
) -> None:
    _watch(beside)
    for words in LIVE:
        found = explain(applied, *words.split(), "--live")
        live = found["live"]
        assert live["differences"] == [], words
        assert live["agrees"]
        captured_at = found["captured_at"]
        assert live["port"] == (captured_at or found["packet"]["port"]), words
        ours = [step for step in found["path"] if step["table"] == "istio_hostagent"]
        path = [{key: step[key] for key in ("table", "chain", "rule")} for step in ours]
        assert live["path"] == path, words
    # Nothing has left the host.
    assert (
        "counter packets 0 bytes 0" in beside.run(["nft", "list", "table", "inet", "seen"]).stdout
    )


def test_a_packet_that_is_refused_on_its_way_in_is_answered_to_nobody(
    host: Host, beside: netns.Namespace
) -> None:
    """The rules of TPROXY refuse what arrives while no proxy listens."""
    before = host.sidecar_env.read_text()
    host.write_sidecar(f"{before}ISTIO_INBOUND_INTERCEPTION_MODE=TPROXY\n")
    host.namespace.ip("route", "add", "default", "via", NEIGHBOUR)
    try:
        host.verb("apply")
        _watch(beside)
        words = ("tcp", f"{ADDRESS}:8080", "--from", NEIGHBOUR, "--live", "--json")
        done = host.verb("explain", *words, is_checked=False)
        live = json.loads(done.stdout)["live"]
        assert live["differences"][-1] == "the model lets it pass, the kernel drops it"
        host.verb("verify", is_checked=False)
        assert _seen(beside) == 0
    finally:
        host.verb("clean")
        host.namespace.ip("route", "delete", "default")
        host.write_sidecar(before)


def test_a_rule_that_somebody_has_put_in_is_named_as_the_difference(applied: Host) -> None:
    rule = "insert rule inet istio_hostagent ISTIO_OUTPUT ip daddr 10.1.0.9 return"
    applied.namespace.run(["nft", rule])
    others = (
        "table ip o { chain c { type filter hook output priority -110; tcp dport 443 counter; }; }"
    )
    applied.namespace.run(["nft", "-f", "-"], stdin=others)
    done = applied.verb("explain", "tcp", "10.1.0.9:443", "--live", is_checked=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "  and rules of others: ip o c rule 1" in lines
    assert any(
        line.endswith("the kernel istio_hostagent ISTIO_OUTPUT rule 1") for line in lines
    ), lines
    assert (
        "  differs: the model sends it to 127.0.0.1 port 15001, the kernel to 10.1.0.9 port 443"
        in lines
    )
    assert "  kernel and model agree" not in lines


def test_what_cannot_be_sent_is_refused(host: Host) -> None:
    words = ("udp", f"{ADDRESS}:53", "--from", NEIGHBOUR, "--live")
    done = host.verb("explain", *words, is_checked=False)
    assert (done.returncode, done.stdout) == (64, "")
    done = host.verb("explain", "tcp", "203.0.113.9:80", "--live", is_checked=False)
    assert (done.returncode, done.stdout) == (64, "")
    assert "the packet cannot be sent: no route" in done.stderr


def test_every_field_is_documented_once(applied: Host) -> None:
    _, _, text = DOCUMENT.read_text().partition("## `istio-hostagent explain --json`, version 1\n")
    documented = []
    for row in re.findall(r"^\| (`[^|]+`) \|", text.partition("\n## ")[0], re.MULTILINE):
        first, *others = re.findall("`([^`]+)`", row)
        documented += [first, *(first.rpartition(".")[0] + other for other in others)]
    found = explain(applied, "tcp", "10.1.0.9:443", "--live")
    inner = {"packet", "without_rules", "live"}
    fields = [
        f"{name}.{field}" if field else name
        for name, value in found.items()
        for field in (value if name in inner else [""])
    ]
    assert sorted(documented) == sorted(fields)
    rule = {"table", "chain", "rule", "comment"}
    assert found["decided_by"].keys() == found["path"][0].keys() == rule
    assert found["settings"][0].keys() == {"key", "file", "line"}
    assert explain(applied, "tcp", "10.1.0.9:443")["live"] is None


def test_beside_an_agent_it_explains_what_is_in_force(
    make_host: conftest.MakeHost, envoy: str, tmp_path: Path
) -> None:
    """Not a file that the agent has refused."""
    host = make_host(envoy=envoy)
    conftest.join(host)
    before = explain(host, "tcp", "10.96.0.5:80")
    assert before["verdict"] == "proxy"
    assert before["notes"] == []
    host.write_cluster(CA_ADDR="10.78.0.1:15012", ISTIO_SERVICE_CIDR="nonsense")
    host.verb("reload", is_checked=False)
    after = explain(host, "tcp", "10.96.0.5:80")
    assert after["verdict"] == "proxy"
    message = "the files are not in force: this is the configuration accepted before"
    assert after["notes"] == [message]
    accepted = host.state / "accepted.json"
    accepted.rename(host.state / "away")
    accepted.mkdir()
    done = host.verb("explain", "tcp", "10.96.0.5:80", is_checked=False)
    assert done.returncode == 75
    assert f"what is in force cannot be read from {accepted}: Is a directory" in done.stderr
    accepted.rmdir()
    done = host.verb("explain", "tcp", "10.96.0.5:80", is_checked=False)
    assert done.returncode == 78 and "nonsense" in done.stderr
