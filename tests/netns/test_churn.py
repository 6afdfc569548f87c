"""An agent beside tools that change nf_tables all the time, and one in a container."""

import select
import signal

import pytest

from istio_hostagent.host.nfnetlink import connection
from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, join
from tests.netns.test_agent import TABLES

BLOCKLIST = """
add table ip blocklist
add set ip blocklist addresses { type ipv4_addr; }
add chain ip blocklist input { type filter hook input priority 0; }
add rule ip blocklist input ip saddr @addresses drop
"""
# A rule of somebody else, in our own table: there for the time of one transaction.
TOUCH = """
add chain inet istio_hostagent touched
delete chain inet istio_hostagent touched
"""


def nft(host: Host, text: str) -> None:
    host.namespace.run(["nft", "-f", "-"], stdin=text, check=True)


def looks(host: Host) -> int:
    return int(host.status()["redirection"]["looks"])


def is_repaired(host: Host) -> bool:
    return bool(host.status()["redirection"]["repaired"] == 1)


@pytest.mark.envoy
class TestChurn:
    def test_others_sets_and_rules_are_no_reason_to_read_ours(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        before = looks(host)
        nft(host, BLOCKLIST)
        for number in range(25):
            nft(host, f"add element ip blocklist addresses {{ 192.0.2.{number} }}")
            nft(host, f"add rule ip blocklist input tcp dport {number + 1} counter")
        nft(host, TOUCH)
        # Changes are taken in order: once this one has been, so have those before it.
        eventually(lambda: looks(host) > before, "a look at what was touched")
        assert looks(host) == before + 1
        assert host.status()["in_mesh"]

    def test_our_own_repair_and_its_proof_are_no_reason_to_look(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        before = looks(host)
        nft(host, "flush ruleset")
        eventually(lambda: is_repaired(host), "repaired")
        host.verb("wait", "--timeout", "60")
        repaired = looks(host)
        nft(host, TOUCH)
        eventually(lambda: looks(host) > repaired, "a look at what was touched")
        assert looks(host) == repaired + 1 == before + 2

    def test_a_rule_put_into_our_table_goes_again_however_many_others_come(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        nft(host, BLOCKLIST)
        addresses = ", ".join(f"10.{i >> 8}.{i & 255}.1" for i in range(10_000))
        nft(
            host,
            "insert rule inet istio_hostagent ISTIO_OUTPUT return\n"
            f"add element ip blocklist addresses {{ {addresses} }}\n",
        )
        eventually(lambda: is_repaired(host), "repaired")
        host.verb("wait", "--timeout", "60")
        assert "CULPRIT=nft[" in host.log_text()

    def test_events_that_were_lost_are_made_up_for_by_a_look(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        nft(host, BLOCKLIST)
        assert host.agent is not None
        host.agent.send_signal(signal.SIGSTOP)
        try:
            # More than the kernel keeps for somebody who does not read.
            for octet in (10, 11):
                addresses = ", ".join(
                    f"{octet}.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(100_000)
                )
                nft(host, f"add element ip blocklist addresses {{ {addresses} }}\n")
            nft(host, "delete table inet istio_hostagent")
        finally:
            host.agent.send_signal(signal.SIGCONT)
        eventually(lambda: host.tables() == {*TABLES, "blocklist"}, "repaired")
        host.verb("wait", "--timeout", "60")


@pytest.mark.envoy
def test_in_a_container_it_does_not_take_itself_for_a_stranger(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    host.has_pid_namespace = True
    join(host)
    # Whoever sends packets commits a table for them. Longer than it would wait with the next ones.
    with host.namespace.inside(lambda: connection.open_socket((7,))) as commits:
        assert select.select([commits], [], [], 12.0)[0] == [], "it sends packets again"
    nft(host, "delete table inet istio_hostagent")
    eventually(lambda: is_repaired(host), "repaired")
    assert "in the initial PID namespace]" in host.log_text()
