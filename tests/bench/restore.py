"""The peers that know no configuration: nft(8) and iptables-restore(8), with rules already made.

What iptables-restore gets are the rules of istio-iptables, as iptables-save wrote them; nft gets
ours. Whoever lets them do the work has made the rules before, which is not in their time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from istio_hostagent.redirect import model
from tests.lab import netns

from . import cost, files, installs, istio

KINDS = ("legacy", "nft")
_EMPTY = "*nat\nCOMMIT\n"


@dataclass(frozen=True)
class Texts:
    """Files with the standard rules, the changed ones, and none."""

    standard: Path
    changed: Path
    none: Path


def save_rules(
    programs: istio.Programs,
    kind: str,
    keys: Mapping[str, str],
    *extra: str,
    program: str = "iptables",
) -> str:
    """What `iptables-KIND-save` writes once istio-iptables has been; raises NotMeasured, LabError.

    `extra`: further words for istio-iptables.
    """
    with netns.Namespace("restore") as space:
        # Without an address it makes no rules.
        space.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        space.ip("link", "set", "eth0", "up")
        for address in ("10.250.0.2/24", "fd00:250::2/64"):
            space.add_address("eth0", address)
        argv = istio.rules_argv(programs, keys, *istio.iptables_mode(kind), *extra)
        space.inside(lambda: cost.run(argv, istio.environment(extra)))
        text = space.run([f"{program}-{kind}-save", "-t", "nat"], check=True).stdout
    return text if "ISTIO_" in text else _EMPTY


def write_iptables(programs: istio.Programs, kind: str, directory: Path) -> Texts:
    """Write what iptables-restore of a kind gets."""
    made = []
    for name, keys in (("standard", files.STANDARD), ("changed", files.CHANGED)):
        made.append(directory / f"{name}.{kind}")
        made[-1].write_text(save_rules(programs, kind, keys))
    none = directory / "none.iptables"
    none.write_text(_EMPTY)
    return Texts(made[0], made[1], none)


def write_nft(directory: Path) -> Texts:
    """Write what nft(8) gets."""
    host = installs.probe(directory)
    made = []
    names = {model.MAIN_TABLE, model.GUARD_TABLE}
    for name, keys in (("standard", files.STANDARD), ("changed", files.CHANGED)):
        rules = installs.build_rules(files.keys_text(keys), host)
        made.append(directory / f"{name}-rules.nft")
        made[-1].write_text(installs.render(rules))
    none = directory / "none.nft"
    none.write_text("".join(f"delete table inet {table}\n" for table in sorted(names)))
    return Texts(made[0], made[1], none)


def restore_argv(kind: str, file: Path, *, program: str = "iptables") -> list[str]:
    """The command that makes a table what a file says, in one commit."""
    return [f"/usr/sbin/{program}-{kind}-restore", str(file)]
