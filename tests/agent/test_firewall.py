"""A firewall of the host that drops what is captured: the host is not called whole."""

import pytest

from tests.agent.host import MemoryHost
from tests.agent.machine import Opener, Proxy
from tests.agent.texts import HOSTAGENT, OWN
from tests.fakes.processes import Plan

MEND = "nft insert rule inet filter input ct status dnat tcp dport 15006 accept"


def test_a_host_behind_a_shut_firewall_does_not_join_until_it_is_open(host: MemoryHost) -> None:
    host.is_firewall_shut = True
    host.start()
    host.until(lambda: "is not reached" in host.summary and not host.has_rules, 10.0, "it failed")
    assert host.summary.startswith("not in the mesh: ")
    assert "the policy of chain inet filter input drops it at port 15006" in host.summary
    assert MEND in host.summary
    assert "(with ISTIO_HOSTAGENT_FIREWALL=open the agent does it)" in host.summary
    # Whoever was reached before is reached as before: nothing is captured, and no proxy ran.
    assert not host.has_rules
    assert host.running == []
    host.shut(is_shut=False)
    host.until(lambda: host.is_in_mesh, 70.0, "in the mesh")


def test_a_firewall_that_shuts_a_joined_host_is_named_and_its_proxy_goes_on(
    host: MemoryHost,
) -> None:
    host.join()
    host.shut(is_shut=True)
    host.until(lambda: host.summary.startswith("degraded: redirection: "), 10.0, "degraded")
    assert MEND in host.summary
    assert host.has_rules
    assert len(host.running) == 1
    assert any(MEND in line for line in host.status["redirection"]["findings"])
    # What goes out needs a proxy, also after the next start.
    host.kill()
    host.start()
    host.until(lambda: host.summary.startswith("degraded: redirection: "), 10.0, "degraded")
    host.until(lambda: len(host.running) == 1, 10.0, "a proxy runs")
    host.run(5.0)
    assert not host.is_in_mesh
    host.shut(is_shut=False)
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")


def test_a_firewall_that_opens_without_a_word_is_noticed(host: MemoryHost) -> None:
    """Rules of iptables-legacy tell nobody that they have changed."""
    host.join()
    host.shut(is_shut=True)
    host.until(lambda: host.summary.startswith("degraded: "), 10.0, "degraded")
    host.is_firewall_shut = False
    host.until(lambda: host.is_in_mesh, 31.0, "in the mesh")


def test_a_proxy_that_ends_behind_a_shut_firewall_is_started_again(host: MemoryHost) -> None:
    host.join()
    host.shut(is_shut=True)
    host.until(lambda: host.summary.startswith("degraded: "), 10.0, "degraded")
    ((before, _, _),) = host.running
    before.finish(-9)
    host.until(lambda: bool(host.ready), 10.0, "a proxy runs again")
    assert len(host.running) == 1
    assert host.running[0][0] is not before


OPEN = OWN + b"ISTIO_HOSTAGENT_FIREWALL=open\n"
REMARK = "captured connections are let in as others are in chain inet filter input"


def test_with_the_key_a_host_behind_a_shut_firewall_joins(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OPEN)
    host.is_firewall_shut = True
    host.join()
    assert host.openings.is_there
    assert REMARK in host.summary
    assert host.status["redirection"]["opened"] == ["chain inet filter input"]


def test_a_firewall_that_is_loaded_anew_is_opened_again(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OPEN)
    host.is_firewall_shut = True
    host.join()
    proxies = host.running
    host.openings.is_there = False
    host.tell(is_ours=False)
    host.until(lambda: host.openings.is_there, 5.0, "it is open again")
    host.until(lambda: host.is_in_mesh, 5.0, "in the mesh")
    assert host.running == proxies


@pytest.mark.parametrize(
    ("opener", "reason"),
    [
        (Opener.REFUSED, "nft: Error: Operation not permitted"),
        (Opener.CRASHING, "worker openings was ended by SIGSEGV"),
        (Opener.HANGING, "worker openings did not end in time"),
    ],
)
def test_a_firewall_that_cannot_be_opened_is_named_with_the_reason(
    host: MemoryHost, opener: Opener, reason: str
) -> None:
    host.write(HOSTAGENT, OPEN)
    host.opener = opener
    host.join()
    host.shut(is_shut=True)
    host.until(lambda: host.summary.startswith("degraded: redirection: "), 20.0, "degraded")
    assert f"not opened: {reason}" in host.summary
    assert MEND in host.summary
    assert "ISTIO_HOSTAGENT_FIREWALL" not in host.summary
    assert len(host.running) == 1
    host.opener = Opener.GOOD
    host.until(lambda: host.is_in_mesh, 31.0, "in the mesh")


@pytest.mark.parametrize("how", ["key", "stop", "failed"])
def test_what_was_opened_goes_with_what_asked_for_it(host: MemoryHost, how: str) -> None:
    host.write(HOSTAGENT, OPEN)
    host.is_firewall_shut = True
    if how == "failed":
        # Its rules are in, and then its proxy does not come up.
        host.proxy = Proxy.UNREADY
        host.start()
        host.until(lambda: host.openings.is_there, 10.0, "it is open")
        host.until(lambda: not host.has_rules, 60.0, "it has given up")
    elif how == "stop":
        host.join()
        host.stop()
        host.until(lambda: not host.has_rules, 10.0, "it has left")
    else:
        host.join()
        host.write(HOSTAGENT, OWN)
        host.until(lambda: "degraded" in host.summary, 40.0, "reported")
    assert not host.openings.is_there


@pytest.mark.parametrize("is_joined", [False, True])
def test_what_an_agent_that_was_killed_has_opened_is_known_to_the_next_one(
    host: MemoryHost, is_joined: bool
) -> None:
    host.write(HOSTAGENT, OPEN)
    host.is_firewall_shut = True
    if is_joined:
        host.join()
    else:
        host.proxy = Proxy.UNREADY
        host.start()
        host.until(lambda: host.openings.is_there, 10.0, "it is open")
    host.kill()
    host.write(HOSTAGENT, OWN)
    host.start()
    host.until(lambda: not host.openings.is_there, 40.0, "it is out")


@pytest.mark.parametrize("is_opened_before", [False, True])
def test_who_leaves_while_the_firewall_is_opened_is_not_called_proven(
    host: MemoryHost, monkeypatch: pytest.MonkeyPatch, *, is_opened_before: bool
) -> None:
    host.write(HOSTAGENT, OPEN)
    host.is_firewall_shut = True
    host.openings.is_there = is_opened_before
    host.opener = Opener.HANGING
    host.start()
    host.until(lambda: host.has_rules, 10.0, "rules are in")
    host.run(1.0)
    assert not any("redirection proven" in line for line in host.log.lines)
    begun: list[str] = []
    worker = host.worker

    def begin(name: str, asked: object) -> Plan:
        begun.append(name)
        return worker(name, asked)

    with monkeypatch.context() as patch:
        patch.setattr(host, "worker", begin)
        host.stop()
        host.until(lambda: not host.has_rules, 10.0, "it has left")
    assert begun == [], "no packets are made ready behind the rules"
    assert not any("redirection proven" in line for line in host.log.lines)
    assert not any("not reached" in line for line in host.log.lines)
    host.opener = Opener.GOOD
    host.join()
