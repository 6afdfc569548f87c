"""A firewall of the host that drops what is captured: the host is not called whole."""

from tests.agent.host import MemoryHost

MEND = "nft insert rule inet filter input ct status dnat tcp dport 15006 accept"


def test_a_host_behind_a_shut_firewall_does_not_join_until_it_is_open(host: MemoryHost) -> None:
    host.is_firewall_shut = True
    host.start()
    host.until(lambda: "is not reached" in host.summary and not host.has_rules, 10.0, "it failed")
    assert host.summary.startswith("not in the mesh: ")
    assert "the policy of chain inet filter input drops it at port 15006" in host.summary
    assert MEND in host.summary
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
