"""What Istio's own scripts leave on a host, in every way in which they have written it.

`left_by(name)` gives the commands of one of them: the real istio-iptables where it is built (`make
peers`), and for the classic scripts the rules that they make, as iptables-restore takes them
(`istio-legacy.md` 3.5, from runs of these scripts). `FOREIGN` are rules of others in the same
tables, some of which are nearly theirs.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from tests.lab import netns
from tests.lab.host import proxy_user
from tests.peers import build

PILOT_AGENT = "ISTIO_HOSTAGENT_TEST_PILOT_AGENT"
PROGRAMS = {
    "legacy": ("iptables-legacy", "ip6tables-legacy"),
    "nft": ("iptables-nft", "ip6tables-nft"),
}
OURS = ("istio_hostagent", "istio_guard")
WATCHER = "watcher"  # of a test
# As Docker makes them, a firewall, and operators who know what they want.
FOREIGN = """*raw
-A PREROUTING -p udp -m udp --sport 5353 -j CT --zone 1
-A OUTPUT -p udp -m udp --dport 53 -j CT --zone 7
COMMIT
*mangle
-A PREROUTING -p tcp -m mark --mark 0x1 -j CONNMARK --save-mark
-A OUTPUT -o lo -p tcp -m mark --mark 0x2 -j RETURN
-A OUTPUT -p tcp -m owner --uid-owner 4711 -j MARK --set-mark 0x53a
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -i wan0 -j RETURN
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A INPUT -p 254 -j RETURN
-A OUTPUT -o wan1 -j RETURN
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353
-A POSTROUTING -o wan0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER -p tcp -m tcp --dport 8081 -j REDIRECT --to-ports 80
COMMIT
*filter
:DOCKER-USER - [0:0]
-A INPUT -p tcp -m tcp --dport 9999 -m comment --comment "ISTIO_ is only a word here" -j ACCEPT
-A FORWARD -p tcp -j DROP
-A FORWARD -p udp -j DROP
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
"""
# Rules that look at marks and tables of others, or at more than a mark.
FOREIGN_ROUTING = (
    ("-4", "rule", "add", "fwmark", "0x539", "lookup", "200", "pref", "1001"),
    ("-6", "rule", "add", "fwmark", "0x1", "lookup", "134", "pref", "1002"),
)
# With these somebody else needs the table of TPROXY: its route is not taken out.
FOREIGN_TPROXY = (
    ("-4", "rule", "add", "fwmark", "0x539/0xfff", "lookup", "133", "pref", "1003"),
    ("-4", "rule", "add", "fwmark", "0x539", "from", "10.9.0.0/16", "lookup", "133"),
)

CLASSIC: Mapping[str, str] = {
    "istio-iptables.sh 0.2": """*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 3306 -j ISTIO_REDIRECT
-A ISTIO_INBOUND -p tcp -m tcp --dport 8080 -j ISTIO_REDIRECT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner {uid} -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 0 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -d 10.96.0.0/12 -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
""",
    "istio-iptables.sh 0.8": """*mangle
:ISTIO_DIVERT - [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_TPROXY - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff
-A ISTIO_DIVERT -j ACCEPT
-A ISTIO_INBOUND -p tcp -m tcp --dport 8080 -m socket -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp -m tcp --dport 8080 -j ISTIO_TPROXY
-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15001 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff
COMMIT
*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner {uid} -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner {uid} -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -d 10.96.0.0/12 -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
""",
    "istio-iptables.sh 1.0": """*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner {uid} -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner {uid} -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -d 169.254.169.254/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
""",
    "prepare_proxy.sh": """*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -m comment --comment "istio/install-istio-prerouting" -j ISTIO_REDIRECT
-A OUTPUT -p tcp -m comment --comment "istio/install-istio-output" -j ISTIO_OUTPUT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m comment --comment "istio/redirect-implicit-loopback" -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner {uid} -m comment --comment "istio/bypass-envoy" -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -m comment --comment "istio/bypass-explicit-loopback" -j RETURN
-A ISTIO_OUTPUT -m comment --comment "istio/redirect-default-outbound" -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -m comment --comment "istio/redirect-to-envoy-port" -j REDIRECT --to-ports 15001
COMMIT
""",
    # With DNS, as of 1.8 to 1.24: rules in built-in chains that lead to no chain of theirs.
    "istio-iptables 1.19": """*raw
-A PREROUTING -s 127.0.0.53/32 -p udp -m udp --sport 53 -j CT --zone 1
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner {uid} -j CT --zone 1
-A OUTPUT -p udp -m udp --sport 15053 -m owner --uid-owner {uid} -j CT --zone 2
-A OUTPUT -d 127.0.0.53/32 -p udp -m udp --dport 53 -j CT --zone 2
COMMIT
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner {uid} -j RETURN
-A OUTPUT -p udp -m udp --dport 53 -m owner --gid-owner {uid} -j RETURN
-A OUTPUT -d 127.0.0.53/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053
-A POSTROUTING -p udp -m udp --dport 15053 -j SNAT --to-source 127.0.0.1
-A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -m owner --uid-owner {uid} -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
""",
}
# What it puts in front of everything while it replaces rules, and a question to the kernel; both
# stay if it is killed.
INTERRUPTED = """*nat
-I INPUT -p 255 -j RETURN
COMMIT
*filter
-I INPUT -p udp -j DROP
-I INPUT -p tcp -j DROP
-I FORWARD -p udp -j DROP
-I FORWARD -p tcp -j DROP
-I OUTPUT -p udp -j DROP
-I OUTPUT -p tcp -j DROP
COMMIT
"""
# What istio-iptables is asked for: as on an ordinary host, and everything that it can do.
ORDINARY = ("-b", "*", "-i", "*", "-d", "22,15090,15021,15020", "--redirect-dns")
EVERYTHING = (
    *("-b", "8080,9090", "-i", "10.96.0.0/12,fd00:10::/64", "-x", "10.96.5.0/24"),
    *("-m", "TPROXY", "-c", "docker0,eth9", "-k", "virt0", "-o", "5432", "-q", "3306"),
    *("--redirect-dns", "--capture-all-dns", "--drop-invalid", "--dual-stack"),
)


def find_pilot_agent() -> Path | None:
    """The real one, if it is there."""
    text = os.environ.get(PILOT_AGENT, "")
    path = Path(text) if text else build.directory("istio") / "pilot-agent"
    return path if os.access(path, os.X_OK) else None


def run_istio_iptables(space: netns.Namespace, back_end: str, *words: str) -> None:
    """Have the real one write its rules: `legacy`, `nft` or `native`. Raises LabError."""
    program = find_pilot_agent()
    assert program is not None
    uid, gid = map(str, proxy_user())
    how = ["--native-nftables"] if back_end == "native" else ["--force-iptables-binary", back_end]
    argv = [str(program), "istio-iptables", *how, "-u", uid, "-g", gid, *words]
    space.run(
        argv, env={"ISTIO_DUAL_STACK": "true"} if "--dual-stack" in words else {}, check=True
    )


def write_classic(space: netns.Namespace, back_end: str, name: str) -> None:
    """Have what a classic script writes, into `legacy` or `nft`. Raises LabError."""
    restore(space, PROGRAMS[back_end][0], CLASSIC[name].format(uid=proxy_user()[0]))


def write_foreign(space: netns.Namespace, back_end: str) -> None:
    """Have rules of others there, in both families, and in the routing policy."""
    for program in PROGRAMS[back_end]:
        restore(space, program, FOREIGN)
    for words in FOREIGN_ROUTING:
        space.ip(*words)


def restore(space: netns.Namespace, program: str, text: str) -> None:
    """Add rules. Raises LabError."""
    space.run([f"{program}-restore", "--noflush"], stdin=text, check=True)


def save(space: netns.Namespace, *, back_ends: tuple[str, ...] = ("legacy", "nft")) -> str:
    """Everything that is not in a table of ours, or of a test's, as text without counters and times.

    Of what is made by looking, that is an empty legacy table, nothing is looked at.
    """
    found = []
    for back_end in back_ends:
        for program in PROGRAMS[back_end]:
            if back_end == "legacy" and not legacy_tables(space, program):
                continue
            text = space.run([f"{program}-save"], check=True).stdout
            found.append(f"{program}\n{_plain(text)}")
    tables = space.run(["nft", "list", "tables"], check=True).stdout
    others = [line for line in tables.splitlines() if line.split()[-1] not in (*OURS, WATCHER)]
    found.append("".join(f"{line}\n" for line in others))
    for family in ("-4", "-6"):
        found.append(space.ip(family, "rule"))
        found.append(space.run(["ip", family, "route", "show", "table", "133"]).stdout)
    return "".join(found)


def legacy_tables(space: netns.Namespace, program: str) -> str:
    """The names of the legacy tables that exist."""
    family = "ip6" if program.startswith("ip6") else "ip"
    path = Path(f"/proc/thread-self/net/{family}_tables_names")
    return space.inside(path.read_text)


def _plain(text: str) -> str:
    lines = (line.split(" [")[0] for line in text.splitlines() if not line.startswith("#"))
    return "".join(f"{line}\n" for line in lines)
