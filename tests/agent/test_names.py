"""Queries for names on a host in memory: whom it asks may change, and so may its proxy."""

from ipaddress import ip_address

import pytest

from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, HOSTAGENT, NAME_SERVERS, OWN_AUTO, PILOT_AGENT, TEXTS

RESOLV_CONF = "/etc/resolv.conf"
REMARK = "queries for names are not captured: only pilot-agent answers them"


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
                found |= {str(ip_address(first)) for first, _ in each.ranges}
    return found


def test_other_name_servers_are_captured_as_soon_as_the_file_names_them(
    asking: MemoryHost,
) -> None:
    asking.install(PILOT_AGENT)
    asking.join()
    assert servers_of(asking) == {"10.1.0.53"}
    for servers in (*NAME_SERVERS, NAME_SERVERS[0]):
        asking.machine.facts = asking.machine.facts._replace(name_servers=servers)
        asking.changed(RESOLV_CONF)
        asking.run(1.0)
        assert servers_of(asking) == {str(each) for each in servers}
    assert asking.is_in_mesh
    assert len(asking.running) == 1, "no proxy was started for it"


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
