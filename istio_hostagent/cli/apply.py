"""Install the rules of the configuration and read them back.

Needs no CA, no proxy and no running service; with an agent running it asks that one. Exit status
0 only when the rules are in and read back equal; otherwise nothing has changed, unless all that
failed is what comes last: to take out what Istio's own scripts have left.

With --confirm-within the rules go out again by themselves after that time (5s to 1h), and what was
there before comes back, unless `apply --confirm` comes first; also if the terminal or the ssh
session is lost. --go-back does not wait for that. Exit status of these two: 1 if no rules wait.
"""

import importlib
import os
import sys
from typing import Any

from . import answer, options
from .options import Option, Values

OPTIONS = (
    Option("quiet", "print nothing on success"),
    Option("confirm-within", "go back after so long, such as 60s or 5m", "", "DURATION"),
    Option("confirm", "let the rules stay that wait for confirmation"),
    Option("go-back", "put back now what was there before these"),
)
# Shorter nobody can look and type; for longer no process should have to be relied on.
SHORTEST_S, LONGEST_S = 5.0, 3600.0


def execute(values: Values) -> int:
    """Apply, and print the diff that was applied."""
    chosen = [name for name in ("confirm-within", "confirm", "go-back") if values[name]]
    if len(chosen) > 1:
        return _misused(f"--{chosen[0]} and --{chosen[1]} do not go together")
    if values["confirm-within"]:
        try:
            within_s = _parse(values["confirm-within"])
        except ValueError as error:
            return _misused(f"argument --confirm-within: {error}")
        # An agent of an earlier version would not know the option, and apply for good.
        answer.ask("apply --confirm-within")
        lines = answer.alone("provisional", os.environ, within_s=within_s)
    elif chosen:
        confirm = importlib.import_module("..agent.oneshot.confirm", __package__)
        lines = confirm.confirm() if values["confirm"] else confirm.go_back()
    else:
        asked = answer.ask("apply")
        lines = asked["lines"] if asked is not None else answer.alone("apply", os.environ)
    if not values["quiet"]:
        print("\n".join(lines) or _nothing_to_do(chosen))
    return 0


def _nothing_to_do(chosen: list[str]) -> str:
    if chosen:
        return "nothing to do: what is there is what was there before"
    return "nothing to do: the rules are as desired"


def _parse(text: str) -> float:
    """The time in seconds; raises ValueError."""
    fields: Any = importlib.import_module("..config.fields", __package__)
    seconds = float(fields.parse_duration(text))
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise ValueError(f"{text!r} is not between 5s and 1h")
    return seconds


def _misused(text: str) -> int:
    print(f"istio-hostagent apply: {text}", file=sys.stderr)
    return options.USAGE_STATUS
