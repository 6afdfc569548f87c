"""Istio's own programs for a host, and how its rules are installed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import proxy_user

from . import cost

# Its second way to nf_tables; without it rules go through iptables-restore.
NFTABLES = "--native-nftables"
# Rules for both families.
DUAL_STACK = "--dual-stack"
# What istioctl excludes for a virtual machine beside what the operator does.
_NEVER_CAPTURED = "22,15020,15021,15090"


def iptables_mode(kind: str) -> tuple[str, str]:
    """Have it use `legacy` or `nft`, which it chooses anew at each call otherwise."""
    return ("--force-iptables-binary", kind)


def environment(words: Sequence[str]) -> dict[str, str]:
    """What these words of a command line need beside it."""
    more = {"ISTIO_DUAL_STACK": "true"} if DUAL_STACK in words else {}
    return cost.ENVIRONMENT | more


@dataclass(frozen=True)
class Programs:
    """Of one release."""

    pilot_agent: Path
    pilot_discovery: Path
    bootstrap: Path


def find(directory: Path) -> Programs:
    """Look for them in a directory; raises NotMeasured naming what is missing."""
    found = Programs(
        directory / "pilot-agent",
        directory / "pilot-discovery",
        directory / "envoy_bootstrap.json",
    )
    for path in (found.pilot_agent, found.pilot_discovery):
        if not os.access(path, os.X_OK):
            raise cost.NotMeasured(f"no {path.name} (`make peers` builds it)")
    if not found.bootstrap.is_file():
        raise cost.NotMeasured(f"no {found.bootstrap.name} (`make peers` builds it)")
    return found


def rules_argv(programs: Programs, keys: Mapping[str, str], *extra: str) -> list[str]:
    """The command line that captures what an environment file with these keys does."""
    uid, gid = proxy_user()
    return [
        str(programs.pilot_agent),
        "istio-iptables",
        *("--envoy-port", "15001", "--inbound-capture-port", "15006"),
        *("--proxy-uid", str(uid), "--proxy-gid", str(gid)),
        *("--istio-inbound-interception-mode", "REDIRECT"),
        *("--istio-service-cidr", keys["ISTIO_SERVICE_CIDR"]),
        *("--istio-service-exclude-cidr", keys["ISTIO_SERVICE_EXCLUDE_CIDR"]),
        *("--istio-inbound-ports", keys["ISTIO_INBOUND_PORTS"]),
        "--istio-local-exclude-ports",
        f"{keys['ISTIO_LOCAL_EXCLUDE_PORTS']},{_NEVER_CAPTURED}",
        *extra,
    ]


def tuned_rules(programs: Programs, keys: Mapping[str, str]) -> tuple[list[str], ...]:
    """The commands that bring the rules in fastest."""
    return (rules_argv(programs, keys, NFTABLES),)


def shipped_rules(
    programs: Programs, keys: Mapping[str, str], *extra: str
) -> tuple[list[str], ...]:
    """The commands of its start script (istio-start.sh): it cleans, then applies."""
    clean = rules_argv(programs, keys, *extra, "--cleanup-only")
    return (clean, rules_argv(programs, keys, *extra))
