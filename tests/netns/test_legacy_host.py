"""A host whose rules are in legacy tables: by the verbs, by the agent, and without nf_tables."""

import functools
import json
import os
import re

import pytest

from tests.lab import istiorules, netns, refusal
from tests.lab.host import CHECKOUT, Host, proxy_user
from tests.lab.servers import Kind, Server, ask
from tests.lab.waiting import eventually
from tests.netns.conftest import CLUSTER, MakeHost, configure

APPLICATION = 1500
LEGACY = {"ISTIO_HOSTAGENT_BACKEND": "legacy"}
COMMANDS = ("iptables-legacy", "ip6tables-legacy")


def saved(host: Host) -> str:
    return "".join(host.namespace.run([f"{command}-save"]).stdout for command in COMMANDS)


def is_clean(host: Host) -> bool:
    return "istio" not in saved(host).lower() and not host.tables()


def verify(host: Host) -> dict[str, object]:
    done = host.verb("verify", "--json", is_checked=False)
    return {**json.loads(done.stdout), "status": done.returncode}


@pytest.fixture
def host(make_host: MakeHost, envoy: str) -> Host:
    made = make_host(envoy=envoy)
    made.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, **LEGACY)
    configure(made)
    return made


# -- the verbs -----------------------------------------------------------------------------------


def test_the_verbs_work_on_legacy_tables(host: Host) -> None:
    planned = host.verb("plan").stdout
    assert "+  -p tcp" in planned
    assert is_clean(host)
    assert host.verb("apply").stdout == planned
    assert "ISTIO_OUTPUT" in saved(host) and not host.tables()
    assert host.verb("apply").stdout.startswith("nothing to do")
    found = verify(host)
    assert (found["status"], found["in_place"], found["broken"]) == (0, True, [])
    assert found["kept"] and not found["differences"]
    host.namespace.run(["iptables-legacy", "-t", "nat", "-F", "ISTIO_OUTPUT"], check=True)
    found = verify(host)
    assert found["status"] == 1
    assert found["broken"] and "ISTIO_OUTPUT" in str(found["differences"])
    host.verb("clean")
    assert is_clean(host)


@pytest.mark.parametrize("key", ["nftables", "legacy"])
def test_another_back_end_takes_the_place_of_the_one_before(host: Host, key: str) -> None:
    before = {"nftables": "legacy", "legacy": "nftables"}[key]
    host.write_hostagent(ISTIO_HOSTAGENT_BACKEND=before)
    host.verb("apply")
    host.write_hostagent(ISTIO_HOSTAGENT_BACKEND=key)
    assert verify(host)["status"] == 1
    planned = host.verb("plan").stdout
    assert host.verb("apply").stdout == planned
    assert bool(host.tables()) == (key == "nftables")
    assert ("ISTIO" in saved(host)) == (key == "legacy")
    assert verify(host)["status"] == 0
    host.verb("clean")
    assert is_clean(host)


def test_chains_of_istio_become_ours_in_one_commit(host: Host) -> None:
    """Its tools have the same names for them."""
    text = """*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
    host.namespace.run(["iptables-legacy-restore"], stdin=text, check=True)
    host.verb("apply")
    assert "-A OUTPUT -p tcp -j ISTIO_OUTPUT" not in saved(host)
    assert verify(host)["status"] == 0


@pytest.mark.parametrize("name", istiorules.CLASSIC)
def test_what_istios_scripts_have_left_is_taken_over_and_nothing_else(
    host: Host, name: str
) -> None:
    """Their chains have the names of ours, and are filled anew; what else is theirs goes behind."""
    istiorules.write_foreign(host.namespace, "legacy")
    before = istiorules.save(host.namespace)
    istiorules.write_classic(host.namespace, "legacy", name)
    host.verb("apply")
    assert verify(host)["status"] == 0
    host.verb("clean")
    assert istiorules.save(host.namespace) == before


def test_a_file_that_others_may_write_cannot_choose(host: Host) -> None:
    host.write_hostagent()
    configure(host, **LEGACY)
    os.chown(host.cluster_env, *proxy_user())
    done = host.verb("apply", is_checked=False)
    assert done.returncode == 78 and "ISTIO_HOSTAGENT_BACKEND" in done.stderr


TPROXY = {"ISTIO_INBOUND_INTERCEPTION_MODE": "TPROXY"}


def test_tproxy_in_legacy_tables_captures_what_comes_in(
    host: Host, cluster: netns.Network
) -> None:
    configure(host, **TPROXY)
    with Server(host.namespace, Kind.ECHO, "0.0.0.0", 8080, banner="hello\n", user=APPLICATION):
        host.verb("apply")
        assert verify(host)["status"] == 0
        # Without a proxy it is dropped: x_tables refuses nothing before routing.
        assert ask(cluster, "10.78.0.11", 8080, timeout_s=1.0).outcome in ("timeout", "silent")
        assert ask(host.namespace, "10.78.0.11", 8080, until=6).received == "hello\n"
        host.verb("clean")
        assert "fwmark" not in host.namespace.ip("rule", "show")
        assert ask(cluster, "10.78.0.11", 8080, until=6).received == "hello\n"


def test_queries_for_names_in_legacy_tables(host: Host) -> None:
    host.write_hostagent(ISTIO_HOSTAGENT_PROXY="pilot-agent", **LEGACY)
    configure(host, ISTIO_META_DNS_CAPTURE="true", CAPTURE_ALL_DNS="true")
    host.verb("apply")
    found = verify(host)
    assert (found["status"], found["broken"]) == (0, [])
    assert any("53" in str(each) for each in found["kept"])  # type: ignore[attr-defined]


# -- the agent -----------------------------------------------------------------------------------


def in_mesh(host: Host) -> None:
    host.verb("wait", "--timeout", "60")


@pytest.fixture
def joined(host: Host) -> Host:
    host.start()
    in_mesh(host)
    return host


def test_the_agent_joins_heals_and_leaves(joined: Host) -> None:
    status = joined.status()
    assert status["redirection"]["back_end"].startswith(
        "legacy tables (x_tables): ISTIO_HOSTAGENT"
    )
    assert status["redirection"]["state"] == "proven"
    assert not joined.tables()
    before = saved(joined)
    guard = (joined.state / "guard.nft").read_text()
    assert guard.startswith("#iptables-legacy\n*filter")

    def is_healed() -> bool:
        return strip(saved(joined)) == strip(before)

    for number, command in enumerate(("-t nat -F", "-t filter -D OUTPUT 1"), 1):
        joined.namespace.run(["iptables-legacy", *command.split()], check=True)
        eventually(is_healed, "put back")
        eventually(functools.partial(has_repaired, joined, number), "counted")
        in_mesh(joined)
    joined.namespace.run(
        ["iptables-legacy", "-t", "nat", "-I", "OUTPUT", "-j", "RETURN"], check=True
    )
    eventually(lambda: head(joined), "first again")
    eventually(functools.partial(has_repaired, joined, 3), "counted")
    in_mesh(joined)
    assert joined.verb("verify").returncode == 0
    joined.stop()
    assert is_clean(joined)


def has_repaired(host: Host, times: int) -> bool:
    return int(host.status()["redirection"]["repaired"]) == times


def strip(text: str) -> str:
    return re.sub(r"\[\d+:\d+\]|#.*", "", text)


def head(host: Host) -> bool:
    rules = host.namespace.run(["iptables-legacy", "-t", "nat", "-S", "OUTPUT"]).stdout
    return "ISTIO_OUTPUT" in (*rules.splitlines(), "", "")[1]


def test_a_killed_agent_leaves_the_rules_and_the_next_one_takes_them_over(joined: Host) -> None:
    before = strip(saved(joined))
    joined.kill()
    assert strip(saved(joined)) == before
    joined.start()
    in_mesh(joined)
    assert strip(saved(joined)) == before


def test_a_changed_configuration_is_tried_and_kept(joined: Host) -> None:
    configure(joined, ISTIO_SERVICE_CIDR="10.78.0.0/24,10.200.0.0/16")
    joined.verb("reload")
    assert "10.200.0.0/16" in saved(joined)
    in_mesh(joined)


def test_a_changed_key_counts_from_the_next_start(joined: Host, envoy: str) -> None:
    joined.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_BACKEND="nftables")
    joined.verb("reload")
    in_mesh(joined)
    eventually(lambda: "next start" in joined.verb("status").stdout, "said")
    assert not joined.tables() and "ISTIO" in saved(joined)
    joined.stop()
    assert is_clean(joined)
    joined.start()
    in_mesh(joined)
    assert joined.tables() and "ISTIO" not in saved(joined)


# -- the unit of early boot --------------------------------------------------------------------

SCRIPT = str(CHECKOUT / "systemd" / "legacy-rules")
FOREIGN = """*{table}
:FOREIGN - [0:0]
:ISTIO_MINE - [0:0]
-A OUTPUT -d 198.51.100.1/32 -j FOREIGN
-A OUTPUT -m comment --comment "not istio-hostagent" -j ISTIO_MINE
-A FOREIGN -p tcp -m comment --comment "istio-hostagents" -j RETURN
-A FOREIGN -p tcp -m comment --comment "istio-hostagent foo" -j RETURN
-A OUTPUT -m comment --comment "istio-hostagent:foo" -j FOREIGN
COMMIT
"""


@pytest.mark.parametrize("is_large", [False, True])
def test_the_script_takes_out_ours_and_nothing_else(host: Host, is_large: bool) -> None:
    foreign = "".join(FOREIGN.format(table=table) for table in ("nat", "filter", "mangle", "raw"))
    for command in COMMANDS:
        text = foreign.replace("198.51.100.1/32", "2001:db8::1") if "6" in command else foreign
        host.namespace.run([f"{command}-restore"], stdin=text, check=True)
    before = strip(saved(host))
    networks = ",".join(f"10.{i}.0.0/17" for i in range(200 if is_large else 3))
    configure(
        host,
        ISTIO_SERVICE_CIDR=networks,
        ISTIO_SERVICE_EXCLUDE_CIDR=networks.replace(".0.0/17", ".1.0/24"),
        DROP_INVALID="true",
        **TPROXY,
    )
    host.verb("apply")
    assert strip(saved(host)) != before
    # One that others have put before ours would keep the chain from going.
    for command in COMMANDS:
        jump = ("-t", "nat", "-A", "FOREIGN", "-p", "tcp", "-j", "ISTIO_OUTPUT")
        host.namespace.run([command, *jump], check=True)
    host.namespace.run([SCRIPT, "remove"], check=True)
    assert strip(saved(host)) == before


def test_the_script_makes_no_table(host: Host) -> None:
    host.namespace.run([SCRIPT, "remove"], check=True)
    names = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
    assert host.namespace.run(["cat", *names]).stdout == ""


def test_the_guard_of_early_boot_refuses_until_the_agent_is_there(joined: Host) -> None:
    """After a reboot: nothing but the guard, and others' rules that came before it."""
    guard = str(joined.state / "guard.nft")
    joined.kill()
    for command in COMMANDS:
        for table in ("nat", "filter", "mangle"):
            joined.namespace.run([command, "-t", table, "-F"], check=True)
            joined.namespace.run([command, "-t", table, "-X"], check=True)
        joined.namespace.run([command, "-A", "OUTPUT", "-j", "ACCEPT"], check=True)
    for _ in range(2):
        joined.namespace.run([SCRIPT, "load", guard], check=True)
    assert ask(joined.namespace, "10.96.0.1", 80, user=APPLICATION).outcome == "refused"
    assert saved(joined).count("-j ISTIO_GUARD ") + saved(joined).count("-j ISTIO_GUARD\n") == 2
    joined.start()
    in_mesh(joined)
    assert joined.verb("verify").returncode == 0
    assert saved(joined).count("-j ISTIO_GUARD\n") == 2


# -- without nf_tables ---------------------------------------------------------------------------


def hide_tun(host: Host) -> None:
    """From now on what is started there can make no probe device."""
    hidden = 'mount --bind /dev/null /dev/net/tun && exec "$0" "$@"'
    host.wrapper = ["unshare", "--mount", "sh", "-c", hidden]


@pytest.mark.parametrize("has_tun", [True, False])
def test_without_nf_tables_the_agent_uses_legacy_tables_and_says_what_is_not_tested(
    host: Host, envoy: str, cluster: netns.Network, has_tun: bool
) -> None:
    host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_ACCESS_LOG="true")
    if not has_tun:
        hide_tun(host)
    refusal.without_nftables(host.start)
    in_mesh(host)
    status = host.status()
    assert "nf_tables is refused (Protocol not supported" in status["redirection"]["back_end"]
    found = verify(host)
    assert (found["status"], found["broken"]) == (0, [])
    assert "no nf_tables" in str(found["not_testable"])
    if has_tun:
        assert status["redirection"]["state"] == "proven in part"
        assert "some rules could not be tested" in status["summary"]
        assert "outbound 10.96.0.0/12 is captured" in str(found["kept"])
    else:
        assert status["redirection"]["state"] == "read back, not testable by packets"
        assert "cannot be tested by packets" in status["summary"]
        assert found["kept"] == []
    # Only a real connection shows all of it here.
    with Server(cluster, Kind.ECHO, CLUSTER, 7000, banner="real\n"):
        ask(host.namespace, CLUSTER, 7000, until=5, user=APPLICATION)
    eventually(lambda: f"{CLUSTER}:7000" in host.log_text(), "in the access log of Envoy")
    host.namespace.run(["iptables-legacy", "-t", "nat", "-F"], check=True)
    eventually(lambda: head(host), "put back")
    host.stop()
    assert is_clean(host)


def test_without_nf_tables_rules_that_do_not_decide_keep_a_host_out(
    host: Host, envoy: str
) -> None:
    host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy)
    # What is not tracked is not translated, and no rule of ours is missing.
    words = "-t raw -I OUTPUT -p tcp -j CT --notrack"
    host.namespace.run(["iptables-legacy", *words.split()], check=True)
    refusal.without_nftables(host.start)
    said = "packets show that the rules do not hold"
    eventually(lambda: said in host.verb("status", is_checked=False).stdout, "said")
    assert not host.status()["in_mesh"]
    host.namespace.run(["iptables-legacy", "-t", "raw", "-F", "OUTPUT"], check=True)
    in_mesh(host)


def test_without_nf_tables_the_verbs_do_the_same(host: Host) -> None:
    host.write_hostagent()
    refusal.without_nftables(lambda: _apply(host))
    assert "ISTIO_OUTPUT" in saved(host) and not host.tables()
    host.verb("clean")
    assert is_clean(host)


def _apply(host: Host) -> None:
    host.verb("apply")


def test_beside_what_istio_has_left_nothing_is_called_in_place_without_a_packet(
    host: Host,
) -> None:
    host.write_hostagent()
    hide_tun(host)
    found: list[dict[str, object]] = []

    def act() -> None:
        host.verb("apply")
        found.append(verify(host))
        host.namespace.ip("rule", "add", "fwmark", "1337", "lookup", "133")
        found.append(verify(host))

    refusal.without_nftables(act)
    assert [(each["status"], each["in_place"]) for each in found] == [(0, True), (1, False)]
    assert "no packet has shown" in str(found[1]["left_by_istio"])


def test_without_nf_tables_what_istio_has_left_in_routing_goes_too(host: Host) -> None:
    host.write_hostagent()
    host.namespace.ip("rule", "add", "fwmark", "1337", "lookup", "133")
    istiorules.write_classic(host.namespace, "legacy", "istio-iptables.sh 0.8")
    refusal.without_nftables(lambda: _apply(host))
    assert "fwmark" not in host.namespace.ip("rule", "show")
    assert verify(host)["left_by_istio"] == ""
    host.verb("clean")
    assert is_clean(host)


def test_who_asks_for_nf_tables_where_it_is_refused_is_told(host: Host) -> None:
    host.write_hostagent(ISTIO_HOSTAGENT_BACKEND="nftables")
    done = []
    refusal.without_nftables(lambda: done.append(host.verb("apply", is_checked=False)))
    assert done[0].returncode == 69
    assert "nf_tables is refused" in done[0].stderr
    assert is_clean(host)
