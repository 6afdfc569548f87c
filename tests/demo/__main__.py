"""Two hosts join a mesh on this machine, for somebody who has never seen one: `make demo`.

    /usr/bin/python3 -m tests.demo --envoy PATH [--keep]
    /usr/bin/python3 -m tests.demo --end DIRECTORY

Real are the agents, the Envoys, the rules, the packets and the certificates; the certificate
authority is a small one for demonstration. Exit status: 0 if all that it shows held, 1 if not or
if something is missing, 128 and the signal's number if it was interrupted. Whatever happens, no
namespace, process or file is left, but with --keep, which says how to end it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.demo import (
    acts,
    asking,
    clearing,
    interruption,
    keeping,
    preflight,
    screen,
    stage,
)

NAME = "istio-hostagent demo"
INTRODUCTION = (
    "Two hosts, a and b, become members of a mesh: what their applications say to each other is"
    " then encrypted, and each side knows who the other is. The applications know nothing of it."
    " All of it happens in network namespaces of this machine and is taken away at the end. On the"
    " left: seconds since the start."
)
LOG_LINES = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.end is not None:
        problem = clearing.end(options.end) if os.geteuid() == 0 else "--end needs root"
        return _refuse(problem) if problem else 0
    if os.geteuid() == 0:
        clearing.sweep()
    if problem := preflight.find_problem(options.envoy):
        return _refuse(problem)
    try:
        return _run(options.envoy, is_kept=options.keep)
    except BrokenPipeError:
        # Whoever read along has gone; everything is taken down by now. Python would try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(envoy: Path, *, is_kept: bool) -> int:
    shown = screen.Screen()
    with interruption.Interruption() as interrupted:
        place = stage.Stage(envoy, interrupted, is_kept=is_kept)
        show = asking.Show(place, shown)
        try:
            with place:
                shown.chapter(NAME, INTRODUCTION)
                is_good = _play(show, acts.ACTS[:-1] if is_kept else acts.ACTS)
                if is_kept and is_good:
                    _keep(show)
        except interruption.Interrupted as signalled:
            shown.say(f"\n{signalled}: everything is taken down, nothing is left behind.")
            return 128 + signalled.number
    shown.table(show.rows)
    verdict = "all of it held" if is_good else "NOT all of it held"
    shown.say(f"\n{verdict}, in {shown.elapsed_s:.1f} s")
    if place.is_kept:
        _tell_how_to(place, shown)
    return 0 if is_good else 1


def _play(show: asking.Show, playing: Sequence[tuple[str, acts.Act]]) -> bool:
    """Show the acts until one cannot go on; say whether everything held."""
    for number, (title, act) in enumerate(playing):
        try:
            act(show)
        except asking.FAILURES as error:
            show.out.step(f"{title}: {error}")
            _show_logs(show)
            show.held(title, False, str(error).splitlines()[0] if str(error) else repr(error))
            for later, _ in playing[number + 1 :]:
                show.held(later, False, "not reached")
            break
    return all(row.is_held for row in show.rows)


def _show_logs(show: asking.Show) -> None:
    for label, member in show.place.members.items():
        for line in member.host.log_text().splitlines()[-LOG_LINES:]:
            show.out.note(f"log of {label}: {line}")


def _keep(show: asking.Show) -> None:
    for member in show.place.members.values():
        keeping.write_scripts(member)
    show.place.keep()


def _tell_how_to(place: stage.Stage, shown: screen.Screen) -> None:
    shown.chapter("It goes on running. As root:")
    for purpose, command in keeping.how_to(place):
        shown.say(f"  # {purpose}\n  {command}")


def _refuse(problem: str) -> int:
    print(f"demo: {problem}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.demo", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--envoy", type=Path, metavar="PATH", help="the Envoy binary to use")
    parser.add_argument("--keep", action="store_true", help="leave it running")
    parser.add_argument("--end", type=Path, metavar="DIRECTORY", help="end what was kept")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
