"""Queries for names on a host in memory: whom it asks may change, and so may its proxy."""

from ipaddress import ip_address

import pytest

from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, HOSTAGENT, NAME_SERVERS, OWN_AUTO, PILOT_AGENT, TEXTS

RESOLV_CONF = "/etc/resolv.conf"
REMARK = "queries for names are not captured: Envoy without a control plane answers none"


@pytest.fixture
def asking(host: MemoryHost) -> MemoryHost:
    """A host whose files have queries for names captured, and that runs pilot-agent if it can."""
    host.write(HOSTAGENT, OWN_AUTO)
    host.write(CLUSTER, TEXTS["names"])
    host.machine.facts = host.machine.facts._replace(name_servers=NAME_SERVERS[0])
    return host


def servers_of(host: MemoryHost) -> set[str]:
    """To which servers queries are captured now."""
    found = set()
    for table in host.space.tables.values():
        for each in table.sets:
            if each.name.startswith("name_servers_v4."):
                spans = (range(first, last + 1) for first, last in each.ranges)
                found |= {str(ip_address(number)) for span in spans for number in span}
    return found


def test_other_name_servers_are_captured_as_soon_as_the_file_names_them(
    asking: MemoryHost,
) -> None:
    asking.install(PILOT_AGENT)
    asking.join()
    assert servers_of(asking) == {"10.1.0.53"}
    for servers in (NAME_SERVERS[1], NAME_SERVERS[0]):
        asking.machine.facts = asking.machine.facts._replace(name_servers=servers)
        asking.changed(RESOLV_CONF)
        asking.run(1.0)
        assert servers_of(asking) == {str(each) for each in servers}
    assert asking.is_in_mesh
    assert len(asking.running) == 1, "no proxy was started for it"


def test_a_file_that_names_nobody_for_a_moment_lets_no_query_around(asking: MemoryHost) -> None:
    asking.install(PILOT_AGENT)
    asking.join()
    asking.machine.facts = asking.machine.facts._replace(name_servers=())
    asking.changed(RESOLV_CONF)
    asking.run(30.0)
    assert servers_of(asking) == {"10.1.0.53"}
    assert asking.is_in_mesh


def test_envoy_alone_answers_no_query_and_the_status_says_so(asking: MemoryHost) -> None:
    asking.join()
    assert asking.proxies_of == {"A", "rules", "all", "names"}
    assert servers_of(asking) == set()
    assert REMARK in asking.summary
    assert asking.answer("verify")["verification"]["in_place"]


def test_queries_are_captured_once_pilot_agent_takes_the_place_of_envoy(
    asking: MemoryHost,
) -> None:
    asking.join()
    asking.kill()
    asking.install(PILOT_AGENT)
    asking.start()
    asking.until(lambda: bool(servers_of(asking)), 130.0, "captured")
    asking.until(lambda: asking.is_in_mesh, 60.0, "in the mesh")
    assert REMARK not in asking.summary


def test_pilot_agent_is_started_anew_once_the_server_that_it_asks_is_gone(
    asking: MemoryHost,
) -> None:
    """It reads resolv.conf when it starts: the world's names would be asked of nobody."""
    asking.install(PILOT_AGENT)
    asking.join()
    before = asking.status["proxy"]["starts"]

    def ask(*servers: str) -> None:
        found = tuple(ip_address(each) for each in servers)
        asking.machine.facts = asking.machine.facts._replace(name_servers=found)
        asking.changed(RESOLV_CONF)

    # One more costs nothing, and neither does a file that is rewritten in steps.
    for servers in (("10.1.0.53", "10.1.0.54"), (), ("10.1.0.54",), ("10.1.0.53",)):
        ask(*servers)
        asking.run(3.0)
    asking.run(60.0)
    assert asking.status["proxy"]["starts"] == before
    ask("10.1.0.54")
    asking.run(4.0)
    assert asking.status["proxy"]["starts"] == before
    asking.until(lambda: asking.status["proxy"]["starts"] == before + 1, 3.0, "started anew")
    asking.until(lambda: asking.is_in_mesh, 30.0, "in the mesh")
    assert servers_of(asking) == {"10.1.0.54"}
    asking.run(120.0)
    assert asking.status["proxy"]["starts"] == before + 1


def test_a_pilot_agent_that_came_back_by_itself_has_read_what_is_listed_then(
    asking: MemoryHost,
) -> None:
    asking.install(PILOT_AGENT)
    asking.join()

    def ask(*servers: str) -> None:
        found = tuple(ip_address(each) for each in servers)
        asking.machine.facts = asking.machine.facts._replace(name_servers=found)
        asking.changed(RESOLV_CONF)
        asking.run(1.0)

    ask("10.1.0.53", "10.1.0.54")
    before = asking.status["proxy"]["starts"]
    asking.running[-1][0].finish(-9)
    asking.until(lambda: asking.status["proxy"]["starts"] == before + 1, 10.0, "back")
    asking.until(lambda: asking.is_in_mesh, 30.0, "in the mesh")
    ask("10.1.0.53")
    asking.until(lambda: asking.status["proxy"]["starts"] == before + 2, 10.0, "started anew")
    asking.run(120.0)
    assert asking.status["proxy"]["starts"] == before + 2
    assert asking.is_in_mesh


def test_a_host_that_has_no_queries_captured_keeps_its_proxy(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN_AUTO)
    host.install(PILOT_AGENT)
    host.machine.facts = host.machine.facts._replace(name_servers=NAME_SERVERS[0])
    host.join()
    before = host.status["proxy"]["starts"]
    host.machine.facts = host.machine.facts._replace(name_servers=NAME_SERVERS[1])
    host.run(180.0)
    assert host.status["proxy"]["starts"] == before


def test_the_status_names_lookups_that_are_no_packets(asking: MemoryHost) -> None:
    asking.install(PILOT_AGENT)
    asking.join()
    assert "libnss-resolve" not in asking.summary
    for asks_resolved in (True, False):
        asking.machine.facts = asking.machine.facts._replace(asks_resolved=asks_resolved)
        asking.changed("/etc/nsswitch.conf")
        asking.run(1.0)
        assert asking.is_in_mesh
        assert ("names of the mesh are not resolved" in asking.summary) is asks_resolved
        warnings = asking.status["configuration"]["warnings"]
        assert any("apt remove libnss-resolve" in each for each in warnings) is asks_resolved
