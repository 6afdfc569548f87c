"""Programs that change the network of a host beside us: how each is set up, and what it then does.

A firewall here lets in ssh and the application's port and drops everything else, as its users set
it up. Of docker there are the rules that dockerd 26 writes for a published port, without dockerd.
"""

from collections.abc import Iterable
from typing import NamedTuple

from tests.booted import machine as machines
from tests.booted import mesh
from tests.package import images

# None of them starts when it is installed (policy-rc.d).
PACKAGES = (
    *("ufw", "firewalld", "fail2ban", "python3-systemd", "dnsmasq", "systemd-resolved"),
    *("ifupdown", "iptables"),
)
UNITS = (
    *("ufw", "firewalld", "fail2ban", "dnsmasq", "systemd-resolved", "networking", "nftables"),
    "systemd-networkd",
)
# By which a test hands its cells to the end of the run.
PROPERTY = "coexistence"
NO_START = "/usr/sbin/policy-rc.d"

_NFTABLES = f"""\
flush ruleset
table inet filter {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "lo" accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        tcp dport {{ 22, {mesh.PORT} }} accept
    }}
}}
"""
_DOCKER = """\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80
COMMIT
"""
# The address is there already: systemd 252 cannot add one on a new kernel, and turns in circles.
_NETWORK = """\
[Match]
Name=eth0
[Network]
DHCP=no
IPv6AcceptRA=no
LinkLocalAddressing=no
KeepConfiguration=static
[Route]
Gateway=10.200.0.1
GatewayOnLink=yes
"""
# The machine has its address from outside before it boots.
_INTERFACES = """\
auto eth0
iface eth0 inet static
    address {address}/16
    gateway 10.200.0.1
    pre-up ip address flush dev eth0
"""
_JAIL = f"""\
[DEFAULT]
banaction = iptables-allports
[sshd]
enabled = true
backend = systemd
port = ssh,{mesh.PORT}
"""


class Step(NamedTuple):
    """Something that happens to a host, by its name in the table."""

    name: str
    command: str


class Tool(NamedTuple):
    """One program. `files`: with `{address}` in them; `is_strict`: it drops what is captured.

    `named`: why that cannot be opened, as the status says it.
    """

    name: str
    files: tuple[tuple[str, str], ...]
    setup: str
    start: str
    steps: tuple[Step, ...]
    stop: str
    enable: str = ""
    is_strict: bool = False
    named: str = ""
    suites: tuple[str, ...] = images.RELEASES


def _systemctl(verb: str, unit: str) -> Step:
    return Step(verb, f"systemctl {verb} {unit}")


_FIREWALLD = f"firewall-offline-cmd -q --add-port={mesh.PORT}/tcp; firewall-offline-cmd -q --add-service=ssh"
_FIREWALLD_STEPS = (
    Step("reload", "firewall-cmd -q --reload"),
    Step("complete reload", "firewall-cmd -q --complete-reload"),
    _systemctl("restart", "firewalld"),
)
TOOLS = (
    Tool(
        "nftables",
        (("/etc/nftables.conf", _NFTABLES),),
        "true",
        "systemctl start nftables",
        (
            _systemctl("reload", "nftables"),
            _systemctl("restart", "nftables"),
            Step("by hand", "nft -f /etc/nftables.conf"),
        ),
        "systemctl stop nftables",
        "systemctl enable -q nftables",
        is_strict=True,
    ),
    Tool(
        "ufw",
        (),
        f"ufw allow 22/tcp; ufw allow {mesh.PORT}/tcp",
        "ufw --force enable",
        (
            Step("reload", "ufw reload"),
            Step("another rule", "ufw allow 9999/tcp"),
            _systemctl("restart", "ufw"),
        ),
        "ufw --force disable",
        "ufw --force enable; systemctl enable -q ufw",
        is_strict=True,
    ),
    Tool(
        "firewalld",
        (),
        _FIREWALLD,
        "systemctl start firewalld",
        _FIREWALLD_STEPS,
        "systemctl stop firewalld",
        "systemctl enable -q firewalld",
    ),
    Tool(
        "firewalld (iptables)",
        (),
        f"{_FIREWALLD}; sed -i 's/^FirewallBackend=.*/FirewallBackend=iptables/'"
        " /etc/firewalld/firewalld.conf",
        "systemctl start firewalld",
        _FIREWALLD_STEPS,
        "systemctl stop firewalld",
        "systemctl enable -q firewalld",
    ),
    # It lets in what itself translates, and nothing else.
    Tool(
        "firewalld (strict)",
        (),
        f"{_FIREWALLD}; sed -i 's/^StrictForwardPorts=.*/StrictForwardPorts=yes/'"
        " /etc/firewalld/firewalld.conf",
        "systemctl start firewalld",
        _FIREWALLD_STEPS,
        "systemctl stop firewalld",
        "systemctl enable -q firewalld",
        is_strict=True,
        named="let it in: sed -i 's/^StrictForwardPorts",
        suites=("trixie",),
    ),
    Tool(
        "fail2ban",
        (("/etc/fail2ban/jail.local", _JAIL),),
        "rm -f /etc/fail2ban/jail.d/*",
        "systemctl start fail2ban; for i in $(seq 50); do fail2ban-client ping && break;"
        " sleep 0.1; done; fail2ban-client set sshd banip 10.200.9.9",
        (
            Step("ban", "fail2ban-client set sshd banip 10.200.9.8"),
            Step("reload", "fail2ban-client reload"),
            _systemctl("restart", "fail2ban"),
        ),
        "systemctl stop fail2ban",
        "systemctl enable -q fail2ban",
    ),
    Tool(
        "docker (rules)",
        (("/opt/docker", _DOCKER),),
        "true",
        "iptables-nft-restore --noflush /opt/docker",
        (Step("again", "iptables-nft-restore --noflush /opt/docker"),),
        "iptables-nft -t nat -F; iptables-nft -F; iptables-nft -P FORWARD ACCEPT",
    ),
    Tool(
        "systemd-networkd",
        (("/etc/systemd/network/10-eth0.network", _NETWORK),),
        "systemctl enable -q systemd-networkd",  # by which its bus name is known
        "systemctl start systemd-networkd",
        (
            Step("reload", "networkctl reload"),
            Step("reconfigure", "networkctl reconfigure eth0"),
            _systemctl("restart", "systemd-networkd"),
        ),
        "systemctl stop systemd-networkd.socket systemd-networkd",
        "true",
    ),
    Tool(
        "networking",
        (("/etc/network/interfaces", _INTERFACES),),
        "true",
        "systemctl start networking",
        (_systemctl("restart", "networking"),),
        "true",
        "systemctl enable -q networking",
    ),
    Tool(
        "systemd-resolved",
        (),
        "true",
        "systemctl start systemd-resolved",
        (_systemctl("restart", "systemd-resolved"),),
        "systemctl stop systemd-resolved",
        "systemctl enable -q systemd-resolved",
    ),
    Tool(
        "dnsmasq",
        (("/etc/dnsmasq.d/tests", "listen-address=127.0.0.1\nbind-interfaces\n"),),
        "true",
        "systemctl start dnsmasq",
        (_systemctl("restart", "dnsmasq"),),
        "systemctl stop dnsmasq",
        "systemctl enable -q dnsmasq",
    ),
)


class Cell(NamedTuple):
    """What a host was after a step. `reason`: as its status says it, if it was not proven."""

    suite: str
    tool: str
    step: str
    is_proven: bool
    reason: str
    seconds: float


def install(machine: machines.Machine) -> None:
    """Install all of them; none starts, now or at boot."""
    machine.write(NO_START, "#!/bin/sh\nexit 101\n", mode="0755")
    machine.run(
        *("apt-get", "-q", "-y", "--no-install-recommends", "install"), *PACKAGES, within_s=300
    )
    machine.run("rm", NO_START)
    machine.run("systemctl", "disable", "-q", *UNITS)
    # apt made it a link to what systemd-resolved would write.
    machine.run("sh", "-c", "rm -f /etc/resolv.conf; : > /etc/resolv.conf")


def render(cells: Iterable[Cell]) -> str:
    """The table: a row for each tool and step, a column for each release."""
    found = {(each.tool, each.step, each.suite): each for each in cells}
    suites = sorted({each[2] for each in found})
    names = list(dict.fromkeys(each[:2] for each in found))
    lines = [f"{'beside':22}{'after':26}" + "".join(f"{suite:30}" for suite in suites)]
    for tool, step in names:
        columns = ""
        for suite in suites:
            cell = found.get((tool, step, suite))
            text = "-"
            if cell is not None:
                text = f"proven ({cell.seconds:.1f} s)" if cell.is_proven else "named, see below"
            columns += f"{text:30}"
        lines.append(f"{tool:22}{step:26}{columns}".rstrip())
    reasons = [each for each in found.values() if not each.is_proven]
    lines += [f"{each.suite}, {each.tool}, {each.step}: {each.reason}" for each in reasons]
    return "\n".join(lines)
