"""Services of a host in a registry: from joining to leaving, and over every failure between."""

import json

import pytest

from istio_hostagent.agent import events
from istio_hostagent.cli import report
from tests.agent.host import MemoryHost
from tests.agent.machine import Proxy
from tests.agent.texts import CLUSTER, HOSTAGENT, OWN, TEXTS
from tests.fakes.registry import Mood

CONSUL, OTHER = "http://127.0.0.1:8500", "http://10.0.0.9:8500"
UNIT = "istio-hostagent.service"
WEB = "istio-hostagent:web:10.1.0.2:8080"
ADMIN = "istio-hostagent:web:10.1.0.2:9090"
DB = "istio-hostagent:db:10.1.0.2:3306"


def write(host: MemoryHost, services: str, **keys: str) -> None:
    own = {"REGISTER": services, **keys}
    text = "".join(f'ISTIO_HOSTAGENT_{key}="{value}"\n' for key, value in own.items())
    host.write(HOSTAGENT, OWN + text.encode())


def there(host: MemoryHost, address: str = CONSUL) -> dict[str, str]:
    return host.registries.instances.get(address, {})


def told(host: MemoryHost) -> str:
    return str(host.status["registration"]["state"])


@pytest.fixture
def host() -> MemoryHost:
    made = MemoryHost()
    write(made, "web=http:8080,9090")
    made.write(CLUSTER, TEXTS["A"])
    return made


def test_they_are_registered_at_join_and_gone_after_the_stop(host: MemoryHost) -> None:
    host.proxy = Proxy.UNREADY
    host.start()
    host.run(20.0)
    assert not there(host)
    host.proxy = Proxy.GOOD
    host.until(lambda: host.is_in_mesh, 120.0, "in the mesh")
    host.run(5.0)
    assert there(host) == {WEB: "", ADMIN: ""}
    assert told(host) == "registered"
    assert WEB in report.render(host.status)
    host.stop()
    assert not there(host)
    assert not host.has("registered")


@pytest.mark.parametrize("word", ["stop", "restart"])
def test_a_stop_takes_them_away_before_it_drains_and_a_restart_leaves_them(word: str) -> None:
    host = MemoryHost(is_owner=True)
    host.unit = UNIT
    write(host, "web=http:8080,9090")
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    host.run(5.0)
    host.jobs = f"12 {UNIT} {word} running\n".encode()
    host.inbox.post(events.Signalled(15))
    if word == "stop":
        host.until(lambda: not there(host), 1.0, "nobody is sent here any more")
        assert host.agent is not None and not host.agent.is_stopping
        return
    host.until(lambda: host.agent is None or host.agent.is_stopping, 0.5, "it does not drain")
    assert host.agent is not None
    host.agent.leave()
    assert there(host) == {WEB: "", ADMIN: ""}


def test_health_follows_readiness(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    asked = host.registries.asked
    host.run(600.0)
    assert host.registries.asked <= asked + 2  # a look now and then
    host.proxy = Proxy.HUNG
    host.until(lambda: all(there(host).values()), 60.0, "not well")
    assert "not in the mesh" in there(host)[WEB]
    host.proxy = Proxy.GOOD
    host.until(lambda: not any(there(host).values()), 60.0, "well again")
    assert host.is_in_mesh


def test_what_an_agent_of_consul_has_lost_is_there_again(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    there(host).clear()
    host.until(lambda: there(host) == {WEB: "", ADMIN: ""}, 310.0, "registered anew")


def test_another_token_is_no_other_registry(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    withdrawn = host.registries.withdrawn
    write(host, "web=http:8080,9090", CONSUL_TOKEN_FILE="/etc/other-token")
    asked = host.registries.asked
    host.until(lambda: host.registries.asked > asked, 60.0, "asked with the other one")
    host.run(5.0)
    assert host.registries.withdrawn == withdrawn
    assert there(host) == {WEB: "", ADMIN: ""}
    host.stop()
    assert not there(host)
    assert host.registries.token_file == "/etc/other-token"


def test_after_a_crash_the_next_agent_takes_over_and_takes_away(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    host.kill()
    assert there(host) == {WEB: "", ADMIN: ""}
    write(host, "db=3306")
    host.start()
    host.until(lambda: there(host) == {DB: ""}, 60.0, "the other service")
    host.kill()
    write(host, "")
    host.start()
    host.until(lambda: not there(host), 60.0, "nothing")
    assert told(host) == "none"
    assert host.is_in_mesh


@pytest.mark.parametrize("mood", [Mood.AWAY, Mood.HANGING, Mood.FORGETFUL])
def test_a_registry_that_fails_is_named_tried_again_and_keeps_nobody_waiting(
    host: MemoryHost, mood: Mood
) -> None:
    host.registries.mood = mood
    host.join()
    host.run(40.0)
    assert host.is_in_mesh
    found = host.status["registration"]
    assert found["state"] == "failed" and found["failures"]
    assert "registry of services" in report.render(host.status)
    assert found["last_error"] not in host.summary
    asked = host.registries.asked
    host.run(3600.0)
    assert host.registries.asked - asked <= 20
    host.registries.mood = Mood.GOOD
    host.until(lambda: told(host) == "registered", 340.0, "registered")
    assert there(host) == {WEB: "", ADMIN: ""}


def test_a_stop_does_not_wait_for_ever_and_the_next_start_goes_on(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    host.registries.mood = Mood.HANGING
    host.stop()
    assert there(host) == {WEB: "", ADMIN: ""}
    assert not host.has_rules
    assert json.loads(host.disk.files["/state/registered"])["ids"] == [WEB, ADMIN]
    host.registries.mood = Mood.GOOD
    write(host, "")
    host.start()
    host.until(lambda: not there(host), 60.0, "nothing")


def test_a_changed_address_of_host_or_registry_leaves_nothing_behind(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    write(host, "web=http:8080,9090", CONSUL=OTHER)
    host.until(lambda: bool(there(host, OTHER)), 120.0, "at the other one")
    assert not there(host)
    assert there(host, OTHER) == {WEB: "", ADMIN: ""}
    write(host, "web=http:8080", CONSUL=OTHER)
    host.until(lambda: there(host, OTHER) == {WEB: ""}, 120.0, "one port")


def test_whatever_was_written_down_cannot_keep_it_from_starting(host: MemoryHost) -> None:
    host.write("/state/registered", b'{"access": 7}')
    host.join()
    host.run(5.0)
    assert there(host) == {WEB: "", ADMIN: ""}
    assert any("cannot be read, so nobody takes it away" in line for line in host.log.lines)
