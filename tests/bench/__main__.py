"""Measure everything, print the table; status 0 also if a budget is missed, 1 if one is not known.

Needs root, nft(8), Debian's python3-cryptography and python3-h2 (for the demo authority), and for
what has a proxy in it an Envoy.
"""

import argparse
import glob
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from istio_hostagent.errors import HostAgentError
from tests.lab import netns

from . import budgets, cost, installs, joining, machine, rows, site, steady, table, verbs

_Measurement = Callable[[], rows.Outcomes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--envoy", default="", metavar="PATH", help="the binary, a pattern is fine"
    )
    parser.add_argument("--long", action="store_true", help="watch the idle agent for a minute")
    parser.add_argument("--only", choices=("kernel", "verbs", "joining", "steady"))
    options = parser.parse_args(arguments)
    if problem := netns.missing():
        print(f"bench: nothing can be measured: {problem}", file=sys.stderr)
        return 1
    # Leave as if by Ctrl-C: namespaces, agents and files go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{machine.describe()}; load {machine.load()}", flush=True)
    outcomes = _measure(options)
    release = machine.release()
    judged = [
        rows.Row(budgets.find_budget(key, release), outcomes[key])
        for key in budgets.BUDGETS
        if key in outcomes
    ]
    print(table.render(judged))
    print(f"load at the end {machine.load()}; rounds take turns, figures are medians unless said")
    return rows.exit_status(judged)


def _measure(options: argparse.Namespace) -> rows.Outcomes:
    directory = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/var/tmp"))
    found = sorted(glob.glob(options.envoy))
    envoy = os.path.abspath(found[0]) if found else options.envoy
    parts: dict[str, list[tuple[str, tuple[str, ...], _Measurement]]] = {
        "kernel": [
            (
                "rules in and out of the kernel",
                ("install", "replace", "read", "repair"),
                lambda: installs.measure_standard(directory),
            ),
            (
                "10 000 networks",
                ("cidrs", "cidrs-text"),
                lambda: installs.measure_large(directory),
            ),
        ],
        "verbs": [("apply and verify", verbs.KEYS, lambda: verbs.measure(directory))],
        "joining": [("joining", joining.KEYS, lambda: _with_site(envoy, joining.measure))],
        "steady": [
            (
                "steady in the mesh",
                steady.KEYS,
                lambda: _with_site(envoy, lambda here: steady.measure(here, is_long=options.long)),
            )
        ],
    }
    outcomes: dict[str, rows.Result | rows.Missing] = {}
    try:
        for name, measurements in parts.items():
            for what, keys, act in measurements if options.only in (None, name) else ():
                print(f"measuring: {what}", flush=True)
                outcomes.update(_attempt(keys, act))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return outcomes


def _attempt(keys: Sequence[str], act: _Measurement) -> rows.Outcomes:
    try:
        return act()
    except (cost.NotMeasured, netns.LabError, HostAgentError, OSError) as error:
        return dict.fromkeys(keys, rows.Missing(str(error)))


def _with_site(envoy: str, act: Callable[[site.Site], rows.Outcomes]) -> rows.Outcomes:
    if not os.access(envoy, os.X_OK):
        raise cost.NotMeasured(f"no Envoy at {envoy!r} (--envoy)")
    with site.Site(envoy) as here:
        return act(here)


if __name__ == "__main__":
    raise SystemExit(main())
