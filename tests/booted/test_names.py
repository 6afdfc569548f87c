"""Names on machines set up by the book: a real istiod and pilot-agent, and the host's own resolver.

The files are those of `istioctl` (ISTIO_META_DNS_CAPTURE='true'). What is looked up is looked up by
the C library for an ordinary user, as the machine's nsswitch.conf and resolv.conf say.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import conftest, mesh, names
from tests.booted import machine as machines
from tests.interop import conftest as interop
from tests.interop import istiod as istiods
from tests.package import repository

RESOLVERS = ("systemd-resolved", "libnss-resolve", "dnsmasq")
INSTALL = ("apt-get", "-q", "-y", "--no-install-recommends", "install")
STUB, UPLINK = "../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/resolv.conf"
UNKNOWN = "[Errno -2] Name or service not known"
REMARK = "names of the mesh are not resolved"
# A resolver may ask twice, with extensions (EDNS) and without; what loops does until it gives up.
MOST_QUERIES = 3
_numbers = itertools.count()


@pytest.fixture(scope="session")
def world(cluster: network.Cluster) -> Iterator[names.World]:
    with names.world(cluster) as made:
        yield made


@pytest.fixture(scope="session")
def control(cluster: network.Cluster) -> Iterator[istiods.Istiod]:
    binary = interop.find_file(interop.ISTIOD, interop.BUILT / "pilot-discovery", "a real istiod")
    with names.istiod(cluster, binary) as made:
        yield made


@pytest.fixture(scope="session")
def pilot_agent() -> Path:
    built = interop.BUILT / "pilot-agent"
    return interop.find_file(interop.PILOT_AGENT, built, "a real pilot-agent")


@pytest.fixture
def host(
    machine: machines.Machine, suite: str, archive: repository.Repository, pilot_agent: Path
) -> machines.Machine:
    """A machine with the package and pilot-agent; its apt knows the resolvers of Debian."""
    beside = pilot_agent.with_name("envoy_bootstrap.json")
    names.install_istio(machine, pilot_agent, interop.find_file(interop.BOOTSTRAP, beside, "it"))
    extra = f"{suite}-resolvers"
    archive.publish(extra, repository.debian_packages(suite, *RESOLVERS))
    conftest.add_source(machine, extra)
    own = names.SIXTH.replace("::1", f"::{machine.address.split('.')[-1]}")
    machine.run("ip", "address", "add", f"{own}/64", "dev", "eth0", "nodad")
    return machine


def rewrite(host: machines.Machine, *servers: str) -> None:
    """Put another resolv.conf in place, as a DHCP client does."""
    host.write("/etc/resolv.conf", "".join(f"nameserver {each}\n" for each in servers))


def link(host: machines.Machine, target: str) -> None:
    host.run("sh", "-euc", f"ln -s {target} /etc/new; mv -T /etc/new /etc/resolv.conf")


def check_names(host: machines.Machine, world: names.World, *, by: str = "") -> None:
    """Names of the mesh and of the world are resolved, and no query goes in a circle.

    `by`: which server of the world is asked, and no other.
    """
    names.wait_resolved(host, names.SERVICE, names.SERVICE_ADDRESS)
    assert names.look_up(host, names.SERVICE, "use-vc") == names.SERVICE_ADDRESS
    assert names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS
    # One that no cache knows.
    name = f"x{next(_numbers)}.example"
    world.asked()
    assert names.look_up(host, name) == UNKNOWN
    asked = world.asked()
    assert 0 < len(asked) <= MOST_QUERIES, asked
    assert not by or {line.split()[0] for line in asked} == {by}


def check_is_left_alone(host: machines.Machine) -> None:
    """Of dnsmasq no query is captured: it is told by its server that the mesh's name is unknown.

    The proxy's user asks, so that his own query is not captured either.
    """
    network.wait_until(
        lambda: names.look_up(host, names.SERVICE, user="istio-proxy") == UNKNOWN,
        "dnsmasq is not captured",
    )


def summary_of(host: machines.Machine) -> str:
    return host.run("istio-hostagent", "status", check=False).stdout.splitlines()[0]


def starts_of(host: machines.Machine) -> int:
    """How often the proxy was started."""
    status = json.loads(host.run("istio-hostagent", "status", "--json", check=False).stdout)
    return int(status["proxy"]["starts"])


def wait_started_anew(host: machines.Machine, starts: int) -> None:
    network.wait_until(lambda: starts_of(host) > starts, "pilot-agent is started anew", 15)
    mesh.wait_joined(host)


def test_with_systemd_resolved(
    host: machines.Machine, control: istiods.Istiod, world: names.World
) -> None:
    host.write(
        "/etc/systemd/resolved.conf.d/tests.conf", f"[Resolve]\nDNS={names.FIRST}\nFallbackDNS=\n"
    )
    host.run(*INSTALL, "systemd-resolved")
    assert host.run("readlink", "/etc/resolv.conf").stdout.strip() == STUB
    assert names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS
    names.provision(host, control)
    mesh.wait_joined(host)
    check_names(host, world)
    # At its first start it has no name on the bus of the system yet (dbus learns it later).
    for act in (("systemctl", "restart", "systemd-resolved"), ("resolvectl", "flush-caches")):
        host.run(*act)
        check_names(host, world)

    # From the stub to the servers behind it: captured at once, and asked by pilot-agent itself soon.
    starts = starts_of(host)
    link(host, UPLINK)
    check_names(host, world, by=names.FIRST)
    # systemd-resolved asks the same servers, and is not captured.
    assert host.run("resolvectl", "query", names.OUTSIDE).returncode == 0
    assert host.run("resolvectl", "query", names.SERVICE, check=False).returncode != 0
    wait_started_anew(host, starts)
    host.run("systemctl", "stop", "systemd-resolved")
    check_names(host, world, by=names.FIRST)
    host.run("systemctl", "start", "systemd-resolved")

    # nss-resolve(8) sends no query: that nothing can be captured there is said.
    assert REMARK not in summary_of(host)
    host.run(*INSTALL, "libnss-resolve")
    network.wait_until(lambda: REMARK in summary_of(host), "the status says so")
    assert names.look_up(host, names.SERVICE) == UNKNOWN
    assert names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS
    # What the manual says: let systemd-resolved itself be captured, where pilot-agent asks others.
    everybody = names.HOSTAGENT_ENV + "ISTIO_HOSTAGENT_RESOLVER_USERS=dnsmasq\n"
    host.write(mesh.HOSTAGENT_ENV, everybody)
    names.wait_resolved(host, names.SERVICE, names.SERVICE_ADDRESS)
    assert names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS
    network.wait_until(lambda: REMARK not in summary_of(host), "the status says it no more")
    # Or without it.
    host.write(mesh.HOSTAGENT_ENV, names.HOSTAGENT_ENV)
    network.wait_until(lambda: REMARK in summary_of(host), "the status says so again")
    host.run("apt-get", "-q", "-y", "remove", "libnss-resolve")
    network.wait_until(lambda: REMARK not in summary_of(host), "the status says it no more")
    check_names(host, world)

    # With the stub again, which is there later than the agent when the machine boots.
    link(host, STUB)
    host.reboot()
    mesh.wait_joined(host)
    check_names(host, world)


def test_with_dnsmasq(host: machines.Machine, control: istiods.Istiod, world: names.World) -> None:
    # The forwarder is not there yet, nor is its user.
    rewrite(host, "127.0.0.1")
    names.provision(host, control, CAPTURE_ALL_DNS="true")
    mesh.wait_joined(host)
    names.wait_resolved(host, names.SERVICE, names.SERVICE_ADDRESS)
    host.write("/etc/dnsmasq.d/tests.conf", f"no-resolv\nserver={names.FIRST}\n")
    host.run(*INSTALL, "dnsmasq")
    check_is_left_alone(host)
    check_names(host, world, by=names.FIRST)
    host.run("systemctl", "restart", "dnsmasq")
    check_names(host, world, by=names.FIRST)
    # Also one that nobody on this machine is told to ask.
    assert names.ask(host, names.SECOND, names.SERVICE) == names.SERVICE_ADDRESS

    # By the files of istioctl, and with the forwarder's own server beside it.
    host.write(mesh.CLUSTER_ENV, names.cluster_env())
    network.wait_until(
        lambda: names.ask(host, names.SECOND, names.SERVICE) == "code 3",
        "queries to other servers are left alone",
    )
    mesh.wait_joined(host)
    check_names(host, world, by=names.FIRST)
    starts = starts_of(host)
    rewrite(host, "127.0.0.1", names.FIRST)
    network.wait_until(
        lambda: names.ask(host, names.FIRST, names.SERVICE) == names.SERVICE_ADDRESS,
        "queries to it are captured",
    )
    check_is_left_alone(host)
    check_names(host, world, by=names.FIRST)

    # Another network, by IPv6 alone, where pilot-agent has not listened so far.
    assert starts_of(host) == starts
    rewrite(host, names.SIXTH)
    wait_started_anew(host, starts)
    check_names(host, world, by=names.SIXTH)

    # Nobody answers in place of pilot-agent, and no query goes around it.
    agent = host.unit("istio-hostagent.service", "MainPID")["MainPID"]
    host.run("kill", "-STOP", agent)
    host.run("pkill", "-KILL", "-x", "pilot-agent")
    world.asked()
    for name in (names.SERVICE, names.OUTSIDE):
        assert names.look_up(host, name).startswith("[Errno -3] Temporary failure")
    assert world.asked() == []
    host.run("kill", "-CONT", agent)
    check_names(host, world, by=names.SIXTH)
    host.run("systemctl", "stop", "istio-hostagent")
    assert names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS
    assert names.look_up(host, names.SERVICE) == UNKNOWN
