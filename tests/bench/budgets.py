"""What is promised: one budget for each row, in the order in which they are printed.

A promise is a ratio to a peer that the same run has measured, as in the design, section 5; an
absolute limit stands only where there is no peer. A row without a limit is there for comparison.
MB is 1000 of the kernel's kB.
"""

import dataclasses
from dataclasses import dataclass

# Peers that a limit refers to, by what they are.
LIBNFTABLES = "libnftables, in process"
ONE_CIDR = "the same rules with 1 CIDR"
SOME_CIDRS = "the same with 10 000 CIDRs"
LEGACY_RESTORE = "iptables-legacy-restore, both families"
NFTABLES_MODE = "istio-iptables, nftables mode"
TUNED_PEER = "istio-iptables, nftables mode; pilot-agent"
PEER_PROCESSES = "pilot-agent and its Envoy"
PILOT_AGENT = "pilot-agent, without its Envoy"

# Debian 13's interpreter and libraries are larger.
MEMORY_MB = {"12": 20.0, "13": 22.0}


@dataclass(frozen=True)
class Limit:
    """At most `factor` times the figure of `peer`, plus `extra` in the unit of the row."""

    extra: float = 0.0
    factor: float = 0.0
    peer: str = ""

    def value(self, peer_figure: float) -> float:
        """What a figure may be at most, beside a peer with this one (any number without peer)."""
        return self.factor * peer_figure + self.extra

    def __str__(self) -> str:
        if not self.peer:
            return f"<= {self.extra:g}"
        return f"<= peer + {self.extra:g}" if self.extra else f"<= {self.factor:.2f} x"


def at_most(value: float) -> Limit:
    """An absolute limit, where nobody else does the same."""
    return Limit(extra=value)


def times(factor: float, peer: str) -> Limit:
    """A ratio to a peer of the same row."""
    return Limit(factor=factor, peer=peer)


def above(extra: float, peer: str) -> Limit:
    """What a peer of the same row takes, and so much more."""
    return Limit(extra=extra, factor=1.0, peer=peer)


@dataclass(frozen=True)
class Budget:
    """One row's promise.

    `percentile`: which of the samples is held against the limit. `elsewhere`: why this program
    does not measure it, and what does.
    """

    what: str
    unit: str
    limit: Limit | None = None
    percentile: float = 50.0
    elsewhere: str = ""


BUDGETS = {
    "install": Budget("install the standard set, in process: CPU", "ms", times(0.8, LIBNFTABLES)),
    "replace": Budget(
        "replace it by a changed one, in process: CPU", "ms", times(0.5, LIBNFTABLES)
    ),
    "read": Budget("read it back and compare, in process: CPU", "ms"),
    "repair": Budget("read, plan, replace, read back, in process: CPU", "ms"),
    "apply": Budget("apply, fresh process: clean host", "ms", times(1.0, NFTABLES_MODE)),
    "apply-cpu": Budget("  the same: CPU, file reader included", "ms"),
    "apply-unchanged": Budget("apply again, unchanged", "ms", times(1.0, NFTABLES_MODE)),
    "apply-unchanged-cpu": Budget("  the same: CPU", "ms"),
    "apply-changed": Budget("apply again, changed", "ms", times(1.0, NFTABLES_MODE)),
    "apply-changed-cpu": Budget("  the same: CPU", "ms"),
    "clean": Budget("clean, fresh process", "ms", times(1.0, NFTABLES_MODE)),
    "clean-cpu": Budget("  the same: CPU", "ms"),
    "apply-root": Budget("apply on a clean host, files only root can write", "ms"),
    "cidrs": Budget("10 000 CIDRs: install, in process: CPU", "ms", times(0.5, LIBNFTABLES)),
    "cidrs-text": Budget("  from the text of the file to the rule set", "ms"),
    "cidrs-all": Budget("100 000 CIDRs: install, in process: CPU", "ms", times(10.0, SOME_CIDRS)),
    "cidrs-all-text": Budget(
        "  from the text of the file to the rule set", "ms", times(10.0, SOME_CIDRS)
    ),
    "cidrs-one": Budget("  one CIDR more or less among them: plan and change, CPU", "ms"),
    "cidrs-one-elements": Budget(
        "  the same: elements that the kernel announces, by table", "", at_most(1.0)
    ),
    "cidrs-one-reload": Budget("  the same: read, plan, change, read back, CPU", "ms"),
    "connect": Budget(
        "connection set-up at 10 000 CIDRs, to changing ones", "us", times(1.05, ONE_CIDR)
    ),
    "connect-same": Budget("  the same, always to one of them", "us", times(1.05, ONE_CIDR)),
    "connect-all": Budget(
        "connection set-up at 100 000 CIDRs, to changing ones", "us", times(1.05, ONE_CIDR)
    ),
    "connect-all-same": Budget("  the same, always to one of them", "us", times(1.05, ONE_CIDR)),
    "escapes": Budget("connections lost or around the proxy, 1 000 reloads", "", at_most(0.0)),
    "escapes-legacy": Budget("  the same in legacy tables", ""),
    "flush": Budget("foreign flush: repaired and proven again, p99", "ms", at_most(20.0), 99.0),
    "flush-rules": Budget("  the first half: rules back, p99", "ms", None, 99.0),
    "mutations": Budget(
        "verify: mutations of the rules that it notices",
        "%",
        elsewhere="no figure of speed; tests/unit/test_plan.py, tests/netns/test_probes.py",
    ),
    "verify": Budget("verify, fresh process, no agent", "ms", at_most(300.0)),
    "verify-asked": Budget("verify, answered by the agent", "ms", at_most(300.0)),
    "rss": Budget("resident memory in the mesh, standard set: RSS", "MB", at_most(20.0)),
    "rss-large": Budget("resident memory in the mesh, 10 000 CIDRs: RSS", "MB", at_most(20.0)),
    "rss-all": Budget(
        "resident memory in the mesh, 100 000 CIDRs: RSS", "MB", above(3.6, SOME_CIDRS)
    ),
    "pss": Budget("  standard set: PSS", "MB"),
    "uss": Budget("  standard set: USS", "MB"),
    "first-cpu": Budget(
        "exec to certificate held and rules proven: CPU", "ms", times(0.8, TUNED_PEER)
    ),
    "first-wall": Budget("  the same: wall", "ms"),
    "joined-pilot": Budget("exec to in the mesh, pilot-agent mode", "s", times(1.0, TUNED_PEER)),
    "joined": Budget("exec to in the mesh, envoy mode", "s", times(1.0, TUNED_PEER)),
    "joined-cpu": Budget("  the same: CPU, Envoy's check of its bootstrap incl.", "ms"),
    "joined-units": Budget(
        "exec to in the mesh, under systemd with units",
        "s",
        times(1.2, TUNED_PEER),
        elsewhere="needs a booted machine",
    ),
    "pilot-ready": Budget("pilot-agent ready, given our certificate", "s", at_most(0.15)),
    "together-pilot": Budget(
        "everything together, pilot-agent mode: PSS", "MB", above(12.0, PEER_PROCESSES)
    ),
    "together": Budget(
        "everything together, envoy mode against istiod: PSS",
        "MB",
        times(0.75, PEER_PROCESSES),
    ),
    "together-alone": Budget("everything together, envoy mode without one: PSS", "MB"),
    "together-served": Budget("  the same, secrets by the secret server: PSS", "MB"),
    "secrets": Budget("secret server, an Envoy connected: PSS", "MB", at_most(12.0)),
    "secrets-own": Budget("  the same: USS", "MB"),
    "wakeups-waiting": Budget("wake-ups, idle, waiting for a configuration", "/min", at_most(2.0)),
    "wakeups-missing": Budget(
        "wake-ups, idle, waiting for a proxy's binary", "/min", at_most(2.0)
    ),
    "wakeups": Budget("wake-ups, idle in the mesh, with Envoy", "/min", at_most(12.0)),
    "storm-elements": Budget(
        "20 foreign commits/s at 10 000 CIDRs, of elements: CPU", "%", at_most(1.0)
    ),
    "storm-rules": Budget(
        "20 foreign commits/s at 10 000 CIDRs, of rules: CPU", "%", at_most(1.0)
    ),
    "hang": Budget("Envoy hung (SIGSTOP) to replaced and serving", "s", at_most(15.0)),
    "hang-pilot": Budget("  the same, the Envoy of a pilot-agent", "s", at_most(15.0)),
    "upgrade": Budget(
        "failed requests in apt upgrade, 2 000 requests/s",
        "",
        at_most(0.0),
        elsewhere="needs a booted machine; tests/booted",
    ),
    "sandbox": Budget(
        "systemd-analyze security, agent",
        "",
        at_most(2.0),
        elsewhere="needs systemd; tests/booted",
    ),
    "sandbox-proxy": Budget(
        "systemd-analyze security, proxy",
        "",
        at_most(1.1),
        elsewhere="needs systemd; tests/booted",
    ),
}


def find_budget(key: str, release: str) -> Budget:
    """Give the budget of a row on this Debian release ("12"; unknown ones count as 12)."""
    budget = BUDGETS[key]
    if key in ("rss", "rss-large") and release in MEMORY_MB:
        return dataclasses.replace(budget, limit=at_most(MEMORY_MB[release]))
    return budget
