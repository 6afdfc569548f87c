"""The names of the classic guides on booted machines, by each program that manages resolv.conf.

A world of name servers: one for all names, and one in the place of the cluster's DNS.
"""

import pytest

from tests.booted import cluster as network
from tests.booted import conftest, names
from tests.booted import machine as machines
from tests.package import repository

PACKAGES = ("systemd-resolved", "dnsmasq", "network-manager")
INSTALL = ("apt-get", "-q", "-y", "--no-install-recommends", "install")
VERB = ("istio-hostagent", "kubedns")
PILOT, CA = "10.150.0.6", "10.150.0.9"
CLUSTER_DNS = names.SECOND
# As setupMeshEx.sh of 0.5 wrote it.
KUBEDNS = f"""\
server=/svc.cluster.local/{CLUSTER_DNS}
address=/istio-mixer/10.150.0.8
address=/istio-pilot/{PILOT}
address=/istio-ca/{CA}
address=/istio-mixer.istio-system/10.150.0.8
address=/istio-pilot.istio-system/{PILOT}
address=/istio-ca.istio-system/{CA}
"""
FILE = "/root/kubedns"
STATIC = f"nameserver {names.FIRST}\n"
UNKNOWN = "[Errno -2] Name or service not known"


@pytest.fixture
def host(
    machine: machines.Machine, suite: str, archive: repository.Repository
) -> machines.Machine:
    """A machine with the package, of which apt knows dnsmasq and its company."""
    extra = f"{suite}-kubedns"
    archive.publish(extra, repository.debian_packages(suite, *PACKAGES))
    conftest.add_source(machine, extra)
    machine.write("/etc/resolv.conf", STATIC)
    machine.write(FILE, KUBEDNS)
    return machine


def everything_below_etc(host: machines.Machine) -> str:
    """Each file and what is in it, but for caches."""
    find = "find /etc -xdev -type f ! -name '*.cache' -exec sha256sum {} + | sort -k2; readlink -f /etc/resolv.conf"
    return host.run("sh", "-euc", find).stdout


def check_names(host: machines.Machine, world: names.World) -> None:
    """The names of the guide, those of the cluster, and all others."""
    for name, address in (
        ("istio-pilot.istio-system", PILOT),
        ("istio-ca.istio-system", CA),
        ("istio-pilot", PILOT),
        (names.OUTSIDE, names.OUTSIDE_ADDRESS),
    ):
        assert names.look_up(host, name) == address
    world.asked()
    assert names.look_up(host, "productpage.bookinfo.svc.cluster.local") == UNKNOWN
    asked = {line.split()[0] for line in world.asked()}
    assert asked == {CLUSTER_DNS}


def check_is_gone(host: machines.Machine) -> None:
    network.wait_until(
        lambda: names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS, "names as before"
    )
    assert names.look_up(host, "istio-pilot.istio-system") == UNKNOWN
    assert host.run(*VERB, check=False).stdout == "no kubedns is in force\n"


@pytest.mark.parametrize("has_dhclient", [False, True])
def test_where_resolv_conf_is_a_file(
    host: machines.Machine, world: names.World, has_dhclient: bool
) -> None:
    if has_dhclient:
        host.run("mkdir", "-p", "/etc/dhcp")
        host.write("/etc/dhcp/dhclient.conf", "timeout 300;")
    assert "apt-get install dnsmasq" in host.run(*VERB, "--install", FILE, check=False).stderr
    host.run(*INSTALL, "dnsmasq")
    before = everything_below_etc(host)
    said = host.run(*VERB, "--install", FILE).stdout
    assert f"istio-pilot.istio-system: {PILOT}\n" in said
    check_names(host, world)
    assert host.read("/etc/dnsmasq.d/kubedns") == KUBEDNS
    if has_dhclient:
        lines = host.read("/etc/dhcp/dhclient.conf").splitlines()
        assert (lines[0], lines[-1]) == ("timeout 300;", "prepend domain-name-servers 127.0.0.1;")

    # Twice is once, and a boot changes nothing.
    after = everything_below_etc(host)
    host.run(*VERB, "--install", FILE)
    assert everything_below_etc(host) == after
    host.reboot()
    network.wait_until(lambda: host.run(*VERB, check=False).returncode == 0, "names are answered")
    check_names(host, world)

    host.run(*VERB, "--remove")
    check_is_gone(host)
    assert host.run(*VERB, "--remove").stdout.startswith("nothing to remove")
    if not has_dhclient:
        assert everything_below_etc(host) == before


def test_beside_systemd_resolved(host: machines.Machine, world: names.World) -> None:
    drop_in = "/etc/systemd/resolved.conf.d/tests.conf"
    host.write(drop_in, f"[Resolve]\nDNS={names.FIRST}\nFallbackDNS=\n")
    host.run(*INSTALL, "systemd-resolved")
    assert names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS
    # It wants the port that systemd-resolved has, on every address.
    host.run(*INSTALL, "dnsmasq", check=False)
    before = everything_below_etc(host)
    host.run(*VERB, "--install", FILE)
    check_names(host, world)
    host.run(*VERB, "--install", FILE)
    check_names(host, world)
    host.reboot()
    network.wait_until(lambda: host.run(*VERB, check=False).returncode == 0, "names are answered")
    check_names(host, world)

    # The removal of the package takes it out.
    host.run("apt-get", "-q", "-y", "remove", "istio-hostagent")
    network.wait_until(
        lambda: names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS, "names as before"
    )
    assert names.look_up(host, "istio-pilot.istio-system") == UNKNOWN
    gone = set(before.splitlines()) - set(everything_below_etc(host).splitlines())
    assert not [line for line in gone if "dns" in line or "resol" in line]


def test_beside_network_manager(host: machines.Machine, world: names.World) -> None:
    host.write(
        "/etc/NetworkManager/conf.d/tests.conf",
        f"[global-dns-domain-*]\nservers={names.FIRST}\n",
    )
    host.run(*INSTALL, "network-manager", "dnsmasq")
    host.run("systemctl", "disable", "--now", "dnsmasq")
    host.run("rm", "-f", "/etc/resolv.conf")
    # The bus of the system learns of it when it starts.
    host.reboot()
    written = ("grep", "-q", "NetworkManager", "/etc/resolv.conf")
    network.wait_until(
        lambda: host.run(*written, check=False).returncode == 0, "it writes resolv.conf", 20
    )
    assert names.look_up(host, names.OUTSIDE) == names.OUTSIDE_ADDRESS
    host.run(*VERB, "--install", FILE)
    check_names(host, world)
    host.run(*VERB, "--remove")
    check_is_gone(host)


@pytest.mark.usefixtures("world")
def test_what_fails_leaves_everything_as_it_was(host: machines.Machine) -> None:
    host.run(*INSTALL, "dnsmasq")
    before = everything_below_etc(host)
    broken = {
        "address=/istio-ca/\n": f"{FILE}:1: no address for istio-ca",
        "address=/istio-ca/10.0.0.1\nconf-file=/etc/shadow\n": f"{FILE}:2: not of the form",
        "server=/x/10.0.0.1@eth0\n": f"{FILE}:1: not an IP address: '10.0.0.1@eth0'",
        "\n": f"{FILE}: no line says",
    }
    for text, said in broken.items():
        host.write(FILE, text)
        failed = host.run(*VERB, "--install", FILE, check=False)
        assert (failed.returncode, said in failed.stderr) == (78, True), failed.stderr
        assert everything_below_etc(host) == before

    # Somebody else says another address, before any server is asked.
    hosts = host.read("/etc/hosts")
    host.write("/etc/hosts", f"{hosts}192.0.2.1 istio-pilot.istio-system\n")
    before = everything_below_etc(host)
    host.write(FILE, KUBEDNS)
    failed = host.run(*VERB, "--install", FILE, check=False)
    assert (failed.returncode, "answered by 192.0.2.1" in failed.stderr) == (75, True)
    assert everything_below_etc(host) == before
    check_is_gone_but_for_hosts = names.look_up(host, "istio-ca.istio-system")
    assert check_is_gone_but_for_hosts == UNKNOWN
