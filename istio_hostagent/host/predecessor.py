"""The units of Istio's own packages on this host: whether they run.

By these names run istio-sidecar.deb's service, and the pair of the classic releases 0.2 to 1.0.
Units of ours that go by the same names have control groups of other names, so a group of such a
name with a process in it is theirs. Only the packaged unit of ours looks: an agent in another
network namespace, or one that somebody runs by hand, has nothing to do with it.
"""

import contextlib
import os
from collections.abc import Sequence

from . import control, controlgroups

UNITS = ("istio.service", "istio-auth-node-agent.service")
OUR_UNIT = "istio-hostagent.service"
# Of a network namespace: from before connections are held until they are let in; gone with the
# machine, as they are.
_RECORD = "taking-over"
# A name that has this behind it is not taken, as long as units of ours run.
_LEFT = ".left"
_SLICE = "system.slice"
_POPULATED = "populated 1"


def find_own_unit() -> str:
    """Give the packaged unit if this process is run by it, or nothing."""
    group = controlgroups.find_own()
    is_users = group.startswith("/user.slice/")
    return OUR_UNIT if os.path.basename(group) == OUR_UNIT and not is_users else ""


class Predecessors:
    """What the agent may know of them."""

    def __init__(self, own_unit: str) -> None:
        """`own_unit`: as which unit this process runs, if it is the packaged one."""
        self._root = controlgroups.find_root() if own_unit else ""

    @property
    def units(self) -> tuple[str, ...]:
        """All that there may be."""
        return UNITS

    def find_running(self) -> tuple[str, ...]:
        """Give those that have processes now; takes no time."""
        return find_running(self._root) if self._root else ()

    def is_held(self) -> bool:
        """Whether an earlier agent was about to take over, and may hold new connections."""
        return bool(self._root) and is_recorded()

    def find_recorded(self) -> tuple[str, ...]:
        """Give those that it was about to replace; none where that is not known."""
        return read_record()[1] if self._root else ()


def write_record(since: float | None, units: Sequence[str]) -> None:
    """Write down what is taken over, and since when connections are held; raises OSError.

    `since`: on the clock that never jumps; None: not yet.
    """
    with open(control.path_of(_RECORD), "w", encoding="ascii") as record:
        record.write(f"{since if since is not None else ''}\n{' '.join(units)}\n")


def read_record() -> tuple[float | None, tuple[str, ...]]:
    """Give what `write_record` was told; nothing where that cannot be read."""
    try:
        with open(control.path_of(_RECORD), encoding="ascii") as record:
            since, units, *_ = (*record.read(4096).split("\n"), "", "")
        return float(since) if since else None, tuple(
            each for each in units.split() if each in UNITS
        )
    except (OSError, ValueError):
        return None, ()


def is_recorded() -> bool:
    """Whether connections may be held."""
    return control.has(_RECORD)


def forget() -> None:
    """They are not, any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(control.path_of(_RECORD))


def leave_names(units: Sequence[str]) -> None:
    """Have the generator leave these names to their units while ours run; raises OSError."""
    for unit in units:
        with open(os.path.join(control.DIRECTORY, f"{unit}{_LEFT}"), "w", encoding="ascii"):
            pass


def find_running(root: str) -> tuple[str, ...]:
    """Give those that have processes, by the tree of control groups that is mounted there."""
    return tuple(unit for unit in UNITS if _is_populated(f"{root}/{_SLICE}/{unit}"))


def _is_populated(group: str) -> bool:
    try:
        with open(f"{group}/cgroup.events", encoding="ascii") as lines:
            return _POPULATED in lines.read().splitlines()
    except OSError:
        return False
