"""Measure everything, print the table; status 0 also if a budget is missed, 1 if one is not known.

Needs root, nft(8), Debian's python3-cryptography and python3-h2 (for the demo authority), for what
has a proxy in it an Envoy, and for the peer what `make peers` builds.
"""

import argparse
import glob
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from istio_hostagent.errors import HostAgentError
from tests.lab import netns
from tests.peers import build

from . import (
    budgets,
    connections,
    cost,
    escapes,
    hang,
    installs,
    istio,
    joining,
    machine,
    networks,
    place,
    rows,
    secretserver,
    site,
    steady,
    storm,
    table,
    together,
    verbs,
)

GROUPS = ("kernel", "verbs", "joining", "steady")


@dataclass(frozen=True)
class _Measurement:
    """One call and the rows that it gives."""

    group: str
    what: str
    keys: tuple[str, ...]
    act: Callable[[], rows.Outcomes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--envoy", default="", metavar="PATH", help="the binary, a pattern is fine"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=build.directory("istio"),
        metavar="DIRECTORY",
        help="where pilot-agent, pilot-discovery and envoy_bootstrap.json are",
    )
    parser.add_argument("--long", action="store_true", help="watch for minutes, not for seconds")
    parser.add_argument("--only", choices=GROUPS)
    options = parser.parse_args(arguments)
    if problem := netns.missing():
        print(f"bench: nothing can be measured: {problem}", file=sys.stderr)
        return 1
    # Leave as if by Ctrl-C: namespaces, agents and files go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{machine.describe()}; load {machine.load()}", flush=True)
    if warning := machine.disturbance():
        print(f"warning: {warning}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        place.show_proxy_user(directory)
        wanted = [
            each
            for each in _measurements(options, directory)
            if options.only in (None, each.group)
        ]
        outcomes = _measure(wanted)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    keys = {key for each in wanted for key in each.keys} if options.only else budgets.BUDGETS
    release = machine.release()
    judged = rows.make_rows(
        {key: budgets.find_budget(key, release) for key in budgets.BUDGETS if key in keys},
        outcomes,
    )
    print(table.render(judged))
    print(f"load at the end {machine.load()}; rounds take turns, figures are medians unless said")
    if warning := warning or machine.disturbance():
        print(f"warning: {warning}")
    return rows.exit_status(judged)


def _measurements(options: argparse.Namespace, directory: Path) -> list[_Measurement]:
    found = sorted(glob.glob(options.envoy))
    envoy = os.path.abspath(found[0]) if found else options.envoy
    try:
        programs: istio.Programs | rows.Missing = istio.find(options.peers)
    except cost.NotMeasured as error:
        programs = rows.Missing(str(error))

    def on_site(act: Callable[[site.Site], rows.Outcomes]) -> Callable[[], rows.Outcomes]:
        return lambda: _with_site(envoy, act)

    def of_peer(here: site.Site) -> rows.Outcomes:
        if isinstance(programs, rows.Missing):
            raise cost.NotMeasured(programs.reason)
        return together.measure(here, programs)

    def of_secrets(here: site.Site) -> rows.Outcomes:
        if isinstance(programs, rows.Missing):
            raise cost.NotMeasured(programs.reason)
        return secretserver.measure(here, programs)

    return [
        _Measurement(
            "kernel",
            "rules in and out of the kernel",
            installs.STANDARD_KEYS,
            lambda: installs.measure_standard(directory),
        ),
        _Measurement(
            "kernel",
            "10 000 and 100 000 networks",
            networks.KEYS,
            lambda: networks.measure(directory),
        ),
        _Measurement(
            "kernel",
            "connections",
            connections.KEYS,
            lambda: connections.measure(directory),
        ),
        _Measurement(
            "kernel",
            "connections while rules change",
            escapes.KEYS,
            lambda: escapes.measure(directory, programs),
        ),
        _Measurement(
            "verbs", "apply, clean and verify", verbs.KEYS, lambda: verbs.measure(programs)
        ),
        _Measurement(
            "joining",
            "joining",
            joining.KEYS,
            on_site(lambda here: joining.measure(here, programs)),
        ),
        _Measurement("joining", "everything together", together.KEYS, on_site(of_peer)),
        _Measurement("joining", "the secret server", secretserver.KEYS, on_site(of_secrets)),
        _Measurement(
            "steady",
            "steady in the mesh",
            steady.KEYS,
            on_site(lambda here: steady.measure(here, is_long=options.long)),
        ),
        _Measurement(
            "steady",
            "others who change nf_tables",
            storm.KEYS,
            on_site(lambda here: storm.measure(here, is_long=options.long)),
        ),
        _Measurement(
            "steady",
            "proxies that hang",
            hang.KEYS,
            on_site(lambda here: hang.measure(here, programs)),
        ),
    ]


def _measure(measurements: Sequence[_Measurement]) -> rows.Outcomes:
    outcomes: dict[str, rows.Result | rows.Missing] = {}
    for each in measurements:
        print(f"measuring: {each.what}", flush=True)
        try:
            outcomes.update(each.act())
        except (cost.NotMeasured, netns.LabError, HostAgentError, OSError) as error:
            outcomes.update(dict.fromkeys(each.keys, rows.Missing(str(error))))
    return outcomes


def _with_site(envoy: str, act: Callable[[site.Site], rows.Outcomes]) -> rows.Outcomes:
    if not os.access(envoy, os.X_OK):
        raise cost.NotMeasured(f"no Envoy at {envoy!r} (--envoy)")
    with site.Site(envoy) as here:
        return act(here)


if __name__ == "__main__":
    raise SystemExit(main())
