"""Keys about whose traffic is captured and which names are resolved: what files come to."""

from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest

from istio_hostagent.config import build, model
from istio_hostagent.errors import Problem

FACTS = model.HostFacts(
    proxy_uid=998,
    proxy_gid=997,
    users=(("root", 0, 0), ("systemd-resolve", 101, 102), ("envoy", 2001, 2002)),
    groups=(("root", 0), ("apps", 3000)),
    name_servers=(IPv4Address("127.0.0.53"),),
)
FILE = "/etc/istio-hostagent/hostagent.env"
Outcome = build.Outcome


def build_config(text: str, facts: model.HostFacts = FACTS) -> Outcome:
    """What the one file that only root can write comes to."""
    return build.build_config([model.Layer(FILE, text.encode(), model.Trust(True))], facts)


def redirection_of(text: str, facts: model.HostFacts = FACTS) -> model.Redirection:
    outcome = build_config(text, facts)
    assert outcome.config is not None, outcome.problems
    return outcome.config.redirection


def test_groups_are_known_by_name_and_number() -> None:
    owners = redirection_of("ISTIO_OUTBOUND_OWNER_GROUPS=apps,70000\n").owners
    assert owners.groups == (3000, 70000)
    assert owners.captures(3000)
    assert not owners.captures(0)
    owners = redirection_of("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=apps,0\n").owners
    assert (owners.groups, owners.groups_exclude) == (None, (0, 3000))
    assert not owners.captures(3000)
    assert owners.captures(70000)


@pytest.mark.parametrize("value", ["", "''", '""'])
def test_no_group_at_all_captures_nothing_outbound_and_says_so(value: str) -> None:
    text = f"ISTIO_SERVICE_CIDR=*\nISTIO_OUTBOUND_OWNER_GROUPS={value}\n"
    outcome = build_config(text)
    assert outcome.config is not None
    assert not outcome.config.redirection.captures_outbound
    message = "ISTIO_OUTBOUND_OWNER_GROUPS is empty: nothing outbound is captured"
    assert outcome.warnings == (Problem(FILE, 2, message),)


def test_excluded_groups_beside_listed_ones_are_a_warning() -> None:
    outcome = build_config(
        "ISTIO_OUTBOUND_OWNER_GROUPS=apps\nISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=0\n"
    )
    message = (
        "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE counts only where ISTIO_OUTBOUND_OWNER_GROUPS is *"
    )
    assert outcome.warnings == (Problem(FILE, 2, message),)


NUMBERS = ",".join(map(str, range(5000, 5065)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"ISTIO_OUTBOUND_OWNER_GROUPS={NUMBERS}", "65 groups are more than 64"),
        (f"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE={NUMBERS}", "65 groups are more than 64"),
        ("ISTIO_OUTBOUND_OWNER_GROUPS=nowhere", "there is no group nowhere in /etc/group: write the number"),
        ("ISTIO_OUTBOUND_OWNER_GROUPS=apps,*", "`*` means every group and stands alone"),
        ("ISTIO_OUTBOUND_OWNER_GROUPS=-1", "'-1' is neither a name nor a number"),
        ("ISTIO_OUTBOUND_OWNER_GROUPS=4294967295", "'4294967295' is not a number between 0 and 4294967294"),
        ("PROXY_UID=nobody-here", "there is no user nobody-here in /etc/passwd: write the number"),
        ("ENVOY_USER=a,b", "'a,b' is not one user"),
        ("ISTIO_EXCLUDE_INTERFACES=eth0:1", "'eth0:1' is not the name of a network interface"),
        ("ISTIO_EXCLUDE_INTERFACES=*", "'*' is not the name of a network interface"),
        ("KUBE_VIRT_INTERFACES=an-interface-too-long", "'an-interface-too-long' is not the name of a network interface"),
        ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.0.0.1", "'127.0.0.1' is not 127.0.0.0/8 or a part of it"),
        ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=10.0.0.0/8", "'10.0.0.0/8' is not 127.0.0.0/8 or a part of it"),
        ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.0.0.0/7", "'127.0.0.0/7' is not 127.0.0.0/8 or a part of it"),
        ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.0.0.0/33", "the prefix length of '127.0.0.0/33' is not a number up to 32"),
        ("ISTIO_HOSTAGENT_RULES=0.9", "'0.9' is not one of current, 1.0, 0.8, 0.7"),
        ("DNS_PROXY_ADDR=localhost", "'localhost' is not host:port"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_error_with_its_line(line: str, message: str) -> None:
    key = line.partition("=")[0]
    assert build_config(f"\n{line}\n").problems == (Problem(FILE, 2, f"{key}: {message}"),)


def test_64_groups_are_taken() -> None:
    numbers = ",".join(map(str, range(5000, 5064)))
    assert redirection_of(f"ISTIO_OUTBOUND_OWNER_GROUPS={numbers}\n").owners.groups == tuple(
        range(5000, 5064)
    )


@pytest.mark.parametrize(
    ("text", "uids", "gids"),
    [
        ("", (), ()),
        ("PROXY_UID=998\n", (998,), (997,)),
        ("PROXY_UID=5000\n", (5000,), (5000,)),
        ("PROXY_UID=envoy\n", (2001,), (2002,)),
        ("PROXY_UID=2001,0\n", (0, 2001), (0, 2002)),
        ("ENVOY_USER=envoy\n", (2001,), (2002,)),
        ("EXEC_USER=envoy\n", (2001,), (2002,)),
        ("ENVOY_USER=istio-proxy\n", (998,), (997,)),
        ("PROXY_GID=apps\n", (), (3000,)),
    ],
)
def test_further_users_of_the_proxy(
    text: str, uids: tuple[int, ...], gids: tuple[int, ...]
) -> None:
    owners = redirection_of(text).owners
    assert (owners.proxy_uids, owners.proxy_gids) == (uids, gids)


def test_interfaces_may_be_beginnings_of_names() -> None:
    redirection = redirection_of(
        "ISTIO_EXCLUDE_INTERFACES=docker0,veth+\nKUBE_VIRT_INTERFACES=k6t*\n"
        "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.1.2.3/8\nINVALID_DROP=true\n"
    )
    assert redirection.excluded_interfaces == ("docker0", "veth*")
    assert redirection.guest_interfaces == ("k6t*",)
    assert redirection.loopback_v4 == IPv4Network("127.0.0.0/8")
    assert redirection.drops_invalid


@pytest.mark.parametrize(
    ("text", "dns"),
    [
        ("", model.Dns()),
        ("CAPTURE_ALL_DNS=true\n", model.Dns()),
        ("REDIRECT_DNS=true\n", model.Dns(True, resolver_uids=(101,))),
        ("REDIRECT_DNS=true\nISTIO_META_DNS_CAPTURE=false\n", model.Dns()),
        ("REDIRECT_DNS=false\nISTIO_META_DNS_CAPTURE=true\n", model.Dns(True, resolver_uids=(101,))),
        ("REDIRECT_DNS=1\nCAPTURE_ALL_DNS=1\n", model.Dns(True, True, resolver_uids=(101,))),
        (
            "REDIRECT_DNS=1\nDNS_PROXY_ADDR=:5353\nISTIO_HOSTAGENT_RESOLVER_USERS=7,envoy,none\n",
            model.Dns(True, False, 5353, (7, 2001)),
        ),
    ],
)  # fmt: skip
def test_which_queries_are_captured(text: str, dns: model.Dns) -> None:
    assert redirection_of(text).dns == dns


def test_pilot_agent_is_told_to_answer_queries_in_the_one_way_that_it_knows() -> None:
    for text in ("REDIRECT_DNS=yes\n", "ISTIO_META_DNS_CAPTURE=yes\n"):
        config = build_config(text).config
        assert config is not None
        told = dict(config.proxy.environment)
        assert told["ISTIO_META_DNS_CAPTURE"] == "true"
        assert "REDIRECT_DNS" not in told


@pytest.mark.parametrize(
    ("more", "facts", "why"),
    [
        ("ISTIO_HOSTAGENT_PROXY=envoy\n", FACTS, "Envoy without a control plane answers none, and ISTIO_HOSTAGENT_PROXY is envoy"),
        ("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE=50-60\n", FACTS, "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE has port 53"),
    ],
)  # fmt: skip
def test_queries_that_are_not_captured_although_asked_for_are_a_warning(
    more: str, facts: model.HostFacts, why: str
) -> None:
    outcome = build_config(f"REDIRECT_DNS=true\n{more}", facts)
    assert outcome.config is not None
    assert not outcome.config.redirection.dns.is_captured
    message = f"REDIRECT_DNS: queries for names are not captured: {why}"
    assert Problem(FILE, 1, message) in outcome.warnings


def test_queries_are_captured_once_there_is_a_server() -> None:
    outcome = build_config("REDIRECT_DNS=true\n", FACTS._replace(name_servers=()))
    assert outcome.config is not None
    assert outcome.config.redirection.dns.is_captured
    message = "REDIRECT_DNS: no query is captured, since /etc/resolv.conf names no server"
    assert outcome.warnings == (Problem(FILE, 1, message),)


@pytest.mark.parametrize(
    ("servers", "more", "is_said"),
    [
        pytest.param(("127.0.0.53",), "", True, id="the stub"),
        pytest.param(("10.1.0.53",), "", True, id="its servers, which it asks uncaptured"),
        pytest.param(
            ("10.1.0.53",), "ISTIO_HOSTAGENT_RESOLVER_USERS=envoy\n", False, id="captured"
        ),
        pytest.param(
            ("127.0.0.53",), "ISTIO_HOSTAGENT_RESOLVER_USERS=envoy\n", True, id="never its own"
        ),
    ],
)
def test_lookups_that_are_no_packets_are_warned_of(
    servers: tuple[str, ...], more: str, is_said: bool
) -> None:
    found = tuple(ip_address(each) for each in servers)
    facts = FACTS._replace(name_servers=found, asks_resolved=True)
    outcome = build_config(f"REDIRECT_DNS=true\n{more}", facts)
    assert outcome.config is not None
    said = [each for each in outcome.warnings if "apt remove libnss-resolve" in str(each)]
    assert bool(said) is is_said
    quiet = build_config(f"REDIRECT_DNS=true\n{more}", facts._replace(asks_resolved=False))
    assert not any("libnss-resolve" in str(each) for each in quiet.warnings)


def test_generations_of_the_rules() -> None:
    current = redirection_of("")
    assert not current.owners.exempts_root
    assert redirection_of("ISTIO_HOSTAGENT_EXEMPT_ROOT=true\n").owners.exempts_root
    one = redirection_of("ISTIO_HOSTAGENT_RULES=1.0\n")
    assert one.owners.exempts_root
    assert (one.inbound_capture_port, bool(one.outbound)) == (15006, False)
    older = redirection_of("ISTIO_HOSTAGENT_RULES=0.8\n")
    assert (older.inbound_capture_port, bool(older.outbound)) == (15001, False)
    oldest = redirection_of("ISTIO_HOSTAGENT_RULES=0.7\n")
    assert oldest.outbound.is_all
    assert 22 in oldest.inbound_exclude.named
    assert not redirection_of(
        "ISTIO_HOSTAGENT_RULES=0.7\nISTIO_SERVICE_CIDR=10.0.0.0/8\n"
    ).outbound.is_all


def test_tproxy_is_told_to_pilot_agent_as_well() -> None:
    text = "ISTIO_INBOUND_INTERCEPTION_MODE=TPROXY\nISTIO_INBOUND_TPROXY_MARK=0x20\n"
    config = build_config(text + "ISTIO_INBOUND_TPROXY_ROUTE_TABLE=200\n").config
    assert config is not None
    assert config.redirection.transparent == model.Transparent(32, 200)
    assert dict(config.proxy.environment)["ISTIO_META_INTERCEPTION_MODE"] == "TPROXY"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "br0, virbr0"),
        ("ISTIO_EXCLUDE_INTERFACES=br0\n", "virbr0"),
        ("ISTIO_EXCLUDE_INTERFACES=br0\nKUBE_VIRT_INTERFACES=virbr0\n", ""),
        ("ISTIO_EXCLUDE_INTERFACES=virbr*\n", "br0"),
        ("ISTIO_CUSTOM_IP_TABLES=true\n", ""),
    ],
)
def test_bridges_that_take_from_tproxy_what_they_bring_are_warned_of(
    text: str, named: str
) -> None:
    facts = FACTS._replace(filtered_bridges=("br0", "virbr0"))
    inbound = "ISTIO_INBOUND_PORTS=*\n"
    transparent = "ISTIO_INBOUND_INTERCEPTION_MODE=TPROXY\n"
    outcome = build_config(transparent + inbound + text, facts)
    said = [each for each in outcome.warnings if "br_netfilter" in str(each)]
    assert len(said) == bool(named)
    assert not named or f"{FILE}:1" in str(said[0])
    assert not named or f"by a bridge ({named}) are refused" in str(said[0])
    for other in (inbound + text, transparent + text):
        quiet = build_config(other, facts)
        assert not any("br_netfilter" in str(each) for each in quiet.warnings)
    quiet = build_config(transparent + inbound + text, FACTS)
    assert not any("br_netfilter" in str(each) for each in quiet.warnings)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("ISTIO_META_INTERCEPTION_MODE=TPROXY\n", 1, "REDIRECT by default"),
        (
            "ISTIO_INBOUND_INTERCEPTION_MODE=TPROXY\nISTIO_META_INTERCEPTION_MODE=REDIRECT\n",
            2,
            f"TPROXY ({FILE}:1)",
        ),
    ],
)
def test_modes_that_disagree_are_an_error(text: str, line: int, said: str) -> None:
    message = (
        "ISTIO_META_INTERCEPTION_MODE: ISTIO_INBOUND_INTERCEPTION_MODE is"
        f" {said}: both must be the same"
    )
    assert build_config(text).problems == (Problem(FILE, line, message),)


def test_a_hole_in_a_list_of_networks_is_a_warning_and_one_of_ports_an_error() -> None:
    outcome = build_config("ISTIO_SERVICE_CIDR=10.0.0.0/8,,fd00::/8\n")
    assert outcome.config is not None
    assert len(outcome.config.redirection.outbound.networks) == 2
    message = "between two commas nothing is written: write 10.0.0.0/8,fd00::/8"
    assert outcome.warnings == (Problem(FILE, 1, f"ISTIO_SERVICE_CIDR: {message}"),)
    assert build_config("ISTIO_INBOUND_PORTS=80,,81\n").config is None
