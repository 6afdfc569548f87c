"""What is captured because a service is there, as the catalogue changes and goes away."""

import ipaddress

import pytest

from istio_hostagent.cli import report
from istio_hostagent.config import model
from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, CONFIGS, HOSTAGENT, OWN, TEXTS, know
from tests.fakes.registry import Mood

ONE, TWO = "10.50.0.7", "10.50.0.8"
METADATA = ("169.254.169.254", "127.0.0.1", "0.0.0.0", "fd00:ec2::254", "::1")


def captured(*addresses: str) -> model.Redirection:
    """What the files say, and these; what Consul's agents say to each other is left alone."""
    settings = CONFIGS["A"].redirection
    hosts = map(ipaddress.ip_network, addresses)
    return settings._replace(
        outbound=model.CidrSet.of([*settings.outbound.networks, *hosts]),
        outbound_ports_exclude=model.PortSet(ranges=((8300, 8300), (8301, 8301), (8302, 8302))),
    )


for found in ((), (ONE,), (TWO,)):
    know("A", captured(*found))


def write(host: MemoryHost, capture: str) -> None:
    host.write(HOSTAGENT, OWN + f"ISTIO_HOSTAGENT_CONSUL_CAPTURE={capture}\n".encode())


def known(host: MemoryHost) -> list[str]:
    found = host.status["catalogue"]["destinations"]
    assert isinstance(found, list)
    return found


@pytest.fixture
def host() -> MemoryHost:
    made = MemoryHost()
    write(made, "*")
    made.write(CLUSTER, TEXTS["A"])
    made.registries.move(ONE)
    return made


def test_services_are_captured_where_they_are(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    assert known(host) == [ONE]
    assert host.is_in_mesh
    before = host.installed()
    host.registries.move(TWO)
    host.until(lambda: known(host) == [TWO], 400.0, "it has moved")
    host.run(5.0)
    assert host.installed() != before
    assert host.is_in_mesh
    assert TWO in report.render(host.status)
    host.registries.move()
    host.until(lambda: not known(host), 400.0, "it is gone")
    host.run(5.0)
    assert host.is_in_mesh


def test_nothing_that_has_to_be_named_is_captured_because_somebody_registers_it(
    host: MemoryHost,
) -> None:
    host.registries.move(ONE, *METADATA)
    host.join()
    host.run(5.0)
    assert known(host) == [ONE]
    assert host.is_in_mesh


@pytest.mark.parametrize("mood", [Mood.AWAY, Mood.HANGING])
def test_what_was_known_counts_while_consul_is_away_and_over_a_start(
    host: MemoryHost, mood: Mood
) -> None:
    host.join()
    host.run(5.0)
    installed = host.installed()
    host.registries.mood = mood
    host.run(800.0)
    assert known(host) == [ONE]
    host.kill()
    host.start()
    host.run(900.0)
    assert host.is_in_mesh
    assert known(host) == [ONE]
    assert host.installed() == installed
    found = host.status["catalogue"]
    assert found["state"] == "failed" and found["failures"]
    assert "services elsewhere" in report.render(host.status)
    host.registries.move(TWO)
    host.registries.mood = Mood.GOOD
    host.until(lambda: known(host) == [TWO], 500.0, "there again")


@pytest.mark.parametrize(
    ("first", "then", "left"),
    [
        ("web", "db", []),
        ("*", "db", []),
        ("web", "web,db", [ONE]),
        ("web,db", "web", [ONE]),
        ("web", "*", [ONE]),
    ],
)
@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_was_known_of_services_that_are_not_wanted_any_more_counts_for_nothing(
    host: MemoryHost, first: str, then: str, left: list[str], *, is_restarted: bool
) -> None:
    write(host, first)
    host.join()
    host.run(5.0)
    assert known(host) == [ONE]
    host.registries.mood = Mood.AWAY
    if is_restarted:
        host.kill()
    write(host, then)
    if is_restarted:
        host.start()
    host.until(lambda: host.status["catalogue"]["state"] == "failed", 60.0, "Consul is away")
    host.run(60.0)
    assert known(host) == left
    assert host.is_in_mesh
    write(host, first)
    host.run(60.0)
    assert known(host) == [ONE]


def test_without_the_key_nobody_asks(host: MemoryHost) -> None:
    write(host, "")
    host.join()
    host.run(600.0)
    assert host.registries.asked == 0
    assert host.status["catalogue"]["state"] == "none"


def test_a_key_that_goes_takes_what_was_captured_with_it(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    with_services = host.installed()
    write(host, "")
    host.until(lambda: host.status["catalogue"]["state"] == "none", 60.0, "off")
    host.until(lambda: host.installed() != with_services, 60.0, "out of the rules")
    host.run(5.0)
    assert host.is_in_mesh
    assert not known(host)


def test_a_quiet_catalogue_wakes_nobody(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    asked = host.registries.asked
    host.run(3600.0)
    assert host.registries.asked - asked <= 13
