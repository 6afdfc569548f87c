"""What is told to, and asked of, systemd by systemctl(1). Loaded by workers only."""

import time
from collections.abc import Callable, Sequence

from ..errors import ChildFailed
from . import programs

_SYSTEMCTL = "/usr/bin/systemctl"
_TIMEOUT_S = 20.0
_PAUSE_S = 0.02


def systemctl(*words: str) -> str:
    """Have systemd do something and give what systemctl writes; raises ChildFailed."""
    command = " ".join(("systemctl", *words))

    def failed(text: str) -> ChildFailed:
        return ChildFailed(command, text.removeprefix("systemctl: "))

    return programs.run((_SYSTEMCTL, *words), timeout_s=_TIMEOUT_S, failed=failed)


def show(unit: str, name: str) -> str:
    """Give a property of a unit; raises ChildFailed."""
    return systemctl("show", "--value", f"--property={name}", "--", unit).strip()


def find_loaded(units: Sequence[str]) -> list[str]:
    """Give those that systemd has loaded under this very name; asking loads none."""
    options = ("--all", "--full", "--plain", "--no-legend", "--")
    lines = systemctl("list-units", *options, *units).splitlines()
    found = {line.split()[0] for line in lines if line.strip()}
    return [unit for unit in units if unit in found]


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether it holds in time."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(_PAUSE_S)
    return True


def refuse_ours(units: Sequence[str]) -> None:
    """Raise ChildFailed where a name is one of ours by now: it would be ourselves who stop."""
    for unit in units:
        if (known := show(unit, "Id")) != unit:
            raise ChildFailed(unit, f"goes by the name {known} now")
