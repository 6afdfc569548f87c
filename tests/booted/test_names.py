"""Names on machines set up by the book: a real istiod and pilot-agent, and the host's own resolver.

The files are those of `istioctl` (ISTIO_META_DNS_CAPTURE='true'). What is looked up is looked up by
the C library for an ordinary user, as the machine's nsswitch.conf and resolv.conf say.
"""

import itertools
import json
from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import conftest, mesh, names
from tests.booted import machine as machines
from tests.interop import conftest as interop
from tests.interop import istiod as istiods
from tests.package import overlay, repository

RESOLVERS = ("systemd-resolved", "libnss-resolve", "dnsmasq")
INSTALL = ("apt-get", "-q", "-y", "--no-install-recommends", "install")
STUB, UPLINK = "../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/resolv.conf"
UNKNOWN = "[Errno -2] Name or service not known"
REMARK = "names of the mesh are not resolved"
# A resolver may ask twice, with extensions (EDNS) and without; what loops does until it gives up.
MOST_QUERIES = 3
_numbers = itertools.count()


UNIT = "istio-hostagent.service"
# Asks for a name until the file /run/enough is there, and says what it was told if that is wrong.
_ASKING = """\
import json, os, socket, sys, time
found = {"asked": 0, "failed": []}
while not os.path.exists("/run/enough"):
    found["asked"] += 1
    begun = time.monotonic()
    try:
        socket.getaddrinfo(sys.argv[1], None, socket.AF_INET)
    except OSError as error:
        found["failed"].append(f"{error} after {time.monotonic() - begun:.2f} s")
    time.sleep(max(0, 0.05 - (time.monotonic() - begun)))
json.dump(found, sys.stdout)
"""


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
    network.wait_until(lambda: starts_of(host) > starts, "pilot-agent is started anew", 60)
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


def test_envoy_alone_takes_everything_from_istiod_and_a_resolver_beside_it_answers(
    machine: machines.Machine, world: names.World, control: istiods.Istiod
) -> None:
    """The files are the same, and no pilot-agent is installed."""
    rewrite(machine, names.FIRST)
    names.provision(machine, control)
    mesh.wait_joined(machine)
    check_names(machine, world)
    report = json.loads(machine.run("istio-hostagent", "status", "--json").stdout)
    assert report["proxy"]["kind"] == "envoy"
    assert report["control_plane"]["state"] == "connected"
    assert report["resolver"]["state"] == "running"
    # The unit is the secret server.
    assert report["secret_server"]["state"] == "none"
    secrets = "istio-hostagent-secrets.service"
    assert machine.unit(secrets, "ActiveState")["ActiveState"] == "active"
    assert machine.run("istio-hostagent", "verify").returncode == 0

    # The agent comes and goes, and nobody who asks notices.
    resolver = report["resolver"]["pid"]
    assert resolver == int(machine.unit("istio-proxy@names.service", "MainPID")["MainPID"])
    machine.write("/opt/asking.py", _ASKING)
    become = ("setpriv", "--reuid", names.APPLICATION, "--clear-groups")
    words = machine.command(*become, "/usr/bin/python3", "/opt/asking.py", names.SERVICE)
    asking = overlay.Background(words)
    machine.run("systemctl", "restart", "istio-hostagent")
    mesh.wait_joined(machine)
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "istio-hostagent")
    mesh.wait_joined(machine)
    machine.run("apt-get", "-q", "-y", "--reinstall", "install", "istio-hostagent", within_s=400)
    mesh.wait_joined(machine)
    machine.run("touch", "/run/enough")
    asked = json.loads(asking.finish())
    print(asked)
    assert asked["asked"] > 50
    assert asked["failed"] == []

    def resolver_of() -> dict[str, object]:
        report = json.loads(machine.run("istio-hostagent", "status", "--json").stdout)
        return dict(report["resolver"])

    network.wait_until(lambda: bool(resolver_of()["answers"]), "its answers are told")
    assert resolver_of()["pid"] == resolver
    check_names(machine, world)

    # It hangs: the host says so, and has another one.
    machine.run("kill", "-STOP", str(resolver))
    network.wait_until(
        lambda: "resolver: it does not answer" in machine.unit(UNIT, "StatusText")["StatusText"],
        "what is wrong",
        150,
    )
    mesh.wait_joined(machine, within_s=60)
    check_names(machine, world)

    # After a boot names are known from before, while istiod is away.
    control.stop()
    try:
        machine.reboot()
        names.wait_resolved(machine, names.SERVICE, names.SERVICE_ADDRESS, within_s=40)
    finally:
        control.start()
    mesh.wait_joined(machine, within_s=60)
    machine.run("systemctl", "stop", "istio-hostagent")
    assert names.look_up(machine, names.OUTSIDE) == names.OUTSIDE_ADDRESS
