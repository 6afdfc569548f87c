"""What `status --check` makes of the published state: one line, and a status that plugins use.

Exit statuses and the form of the line are those of the Monitoring Plugins Development Guidelines
(monitoring-plugins.org/doc/guidelines.html): 0 ok, 1 warning, 2 critical, 3 unknown; behind a bar
the numbers. Not here: where the state comes from (`host.published`).
"""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..config import fields
from ..errors import WrongUsage
from ..host import published


class Level(enum.IntEnum):
    """How a check ends."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


# The worst comes first; what is not known is worse than what is good, and than nothing else.
_ORDER = (Level.CRITICAL, Level.WARNING, Level.UNKNOWN, Level.OK)
# Setting a clock right puts it back by so little again and again.
_SKEW_S = 5.0
_PUT_BACK = "and the clock was put back after that: nobody knows how long ago"
IN_MESH, CERT, PROOF, CONTROL_PLANE = "in-mesh", "cert", "proof", "control-plane"
KNOWN = (IN_MESH, CERT, PROOF, CONTROL_PLANE)


class Check(NamedTuple):
    """One of them; `limits`: seconds, for a warning and for critical."""

    name: str
    limits: tuple[float, ...] = ()


class Result(NamedTuple):
    """What came of one; `number` is what a graph is made of."""

    level: Level
    text: str
    number: str = ""


def parse(words: Sequence[str]) -> tuple[Check, ...]:
    """Read `in-mesh`, `cert=24h`, `cert=24h,6h` and so on; raises WrongUsage."""
    return tuple(map(_parse_one, words))


def _parse_one(word: str) -> Check:
    name, mark, rest = word.partition("=")
    if name not in KNOWN or (mark and name == IN_MESH):
        raise WrongUsage(f"no such check: {word}; there are {', '.join(KNOWN)}")
    try:
        limits = tuple(map(fields.parse_duration, rest.split(","))) if mark else ()
    except ValueError as error:
        raise WrongUsage(f"{word}: {error}") from error
    if len(limits) > 2:
        raise WrongUsage(f"{word}: at most two durations, for a warning and for critical")
    if not limits and name == PROOF:
        raise WrongUsage(f"{word}: say how old it may be, such as {PROOF}=1h")
    return Check(name, limits)


def judge(found: published.Found, checks: Sequence[Check], now: float) -> tuple[Level, str]:
    """Give the level and the one line; `now`: unix seconds."""
    results = [_judge_one(found, check, now) for check in checks]
    level = next(level for level in _ORDER if any(each.level is level for each in results))
    # What is worst comes first: a pager shows no more.
    sorted_ = sorted(results, key=lambda each: _ORDER.index(each.level))
    text = "; ".join(dict.fromkeys(each.text for each in sorted_))
    numbers = " ".join(each.number for each in results if each.number)
    line = f"MESH {level.name} - {' '.join(text.replace('|', '/').split())}"
    return level, f"{line} | {numbers}" if numbers else line


def _judge_one(found: published.Found, check: Check, now: float) -> Result:
    if found.problem or found.state is None:
        # Nobody says that this host is in the mesh; of the rest nobody says anything.
        level = Level.CRITICAL if check.name == IN_MESH else Level.UNKNOWN
        return Result(level, found.problem)
    judged = {IN_MESH: _in_mesh, CERT: _cert, PROOF: _proof, CONTROL_PLANE: _control_plane}
    try:
        return judged[check.name](found.state, check.limits, now)
    except (KeyError, TypeError) as error:
        text = f"{check.name}: the agent is of another version ({error})"
        return Result(Level.UNKNOWN, text)


def _in_mesh(state: dict[str, Any], _limits: tuple[float, ...], now: float) -> Result:
    ends = state["certificate"]["not_after"]
    is_ended = ends is not None and now >= ends  # the clock goes on between two looks
    if not state["in_mesh"] or is_ended:
        text = "the certificate has ended" if state["in_mesh"] else state["summary"]
        return Result(Level.CRITICAL, text, "in_mesh=0")
    level = Level.WARNING if state["causes"] else Level.OK
    return Result(level, state["summary"], "in_mesh=1")


def _cert(state: dict[str, Any], limits: tuple[float, ...], now: float) -> Result:
    part = state["certificate"]
    if part["not_after"] is None:
        return Result(Level.CRITICAL, "no certificate is held")
    left = part["not_after"] - now
    first, last = limits[0] if limits else 0.0, limits[1] if len(limits) > 1 else 0.0
    number = f"cert_left={left:.0f}s;{first:.0f}:;{last:.0f}:"
    if left <= 0:
        return Result(Level.CRITICAL, f"the certificate ended {_length(-left)} ago", number)
    is_failing = part["renewal"] == "failing"
    text = f"certificate for {_length(left)} more"
    if is_failing:
        text += f", renewal fails since {_length(now - part['failing_since'])}"
    level = Level.WARNING if left < first or is_failing else Level.OK
    return Result(Level.CRITICAL if left < last else level, text, number)


def _proof(state: dict[str, Any], limits: tuple[float, ...], now: float) -> Result:
    part = state["redirection"]
    if part["state"] == "none" or not part["managed"]:
        return Result(Level.OK, "nothing is redirected by rules of this agent")
    if not part["state"].startswith("proven"):
        is_in = part["state"] not in ("absent", "installed")
        return Result(Level.WARNING if is_in else Level.CRITICAL, f"redirection {part['state']}")
    age = now - part["proven_at"]
    if age < -_SKEW_S:
        return Result(Level.WARNING, f"redirection {part['state']}, {_PUT_BACK}")
    number = f"proof_age={age:.0f}s;{';'.join(f'{limit:.0f}' for limit in limits)}"
    text = f"redirection {part['state']} {_length(age)} ago"
    level = Level.WARNING if age > limits[0] else Level.OK
    is_long = len(limits) > 1 and age > limits[1]
    return Result(Level.CRITICAL if is_long else level, text, number)


def _control_plane(state: dict[str, Any], limits: tuple[float, ...], now: float) -> Result:
    part = state["control_plane"]
    match part["state"]:
        case "connected":
            return Result(Level.OK, "control plane connected")
        case "none":
            return Result(Level.OK, "this proxy has no control plane")
        case "away":
            away = now - part["away_since"]
            if away < -_SKEW_S:
                text = f"no connection to the control plane, {_PUT_BACK}"
                return Result(Level.WARNING, text)
            text = f"no connection to the control plane for {_length(away)}"
            first = limits[0] if limits else 0.0
            is_long = len(limits) > 1 and away > limits[1]
            level = Level.WARNING if away > first else Level.OK
            return Result(Level.CRITICAL if is_long else level, text)
    return Result(Level.UNKNOWN, "nothing is known of the control plane")


def _length(seconds: float) -> str:
    """A length of time for people, in the largest unit of which there are two."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
