"""When to ask the CA for a certificate: a pure decision.

Not here: asking, and what a failure means. Time and jitter are arguments. While a certificate is
valid the answer never lies after its end; without one, failures still put a pause between
attempts. Instants are unix seconds.
"""

from typing import NamedTuple

# Part of the life by which a fleet started at the same moment spreads out, each way.
SPREAD = 0.05
# A pause after a failure is longer or shorter by up to this part of it. It comes last, after every
# bound: hosts that the CA has refused in the same second must not all reach the same bound.
PAUSE_SPREAD = 0.5
LONGEST_PAUSE_S = 150.0
# A pause is at most this part of the life that is left, so that a certificate of a minute gets
# many tries, and one of days many near its end.
PAUSE_PART = 0.125
SHORTEST_PAUSE_S = 1.0
# ... but no shorter than this part of the whole life: about fifty tries at most.
SHORTEST_PART = 0.02
# A call that hangs must leave time for more of them, and a CA that is only slow time to answer.
CALL_PART = 0.25
SHORTEST_CALL_S = 2.0


# Hosts that were all off when their renewals were due do not ask together when they are back: over
# this part of what is left, and no longer than so, each asks when chance has it.
START_PART = 0.25
LONGEST_START_S = 3600.0


class Life(NamedTuple):
    """From when on a certificate is in our hands, and until when it holds."""

    start: float
    end: float


def next_attempt(
    held: Life | None,
    now: float,
    *,
    failures: int,
    jitter: float,
    ratio: float = 0.5,
    spread: float = SPREAD,
) -> float:
    """When to ask the CA next: `now` or later.

    `held`: the certificate in hand, None without one. `failures`: in a row since the last
    success. `jitter`: -1 to 1, drawn by the caller. `ratio`: renew when this part of the life is
    left, 0 to 1; `spread`: that part may be larger or smaller by this much, 0 to 1.
    """
    if held is None or held.end <= now:
        return now + spread_out(_pause(failures), jitter)
    if failures:
        pause = min(_pause(failures), _longest_pause(held, now))
        return min(now + spread_out(pause, jitter), held.end)
    # At most half way to either end: neither a renewal at the last moment, nor one after another.
    spread = min(spread, ratio / 2 if jitter < 0 else (1 - ratio) / 2)
    due = held.end - (held.end - held.start) * (ratio + spread * jitter)
    return min(max(now, due), held.end)


def after_start(
    held: Life, now: float, *, jitter: float, ratio: float = 0.5, spread: float = SPREAD
) -> float:
    """When to ask for the renewal of a certificate that was there at the start, and is good.

    As `next_attempt`; but from when on it may be due, hosts that have started together are spread
    out once more, with those that are not due yet.
    """
    earliest, latest, due = (
        next_attempt(held, now, failures=0, jitter=each, ratio=ratio, spread=spread)
        for each in (1.0, -1.0, jitter)
    )
    if earliest > now:
        return due
    window = min((held.end - now) * START_PART, LONGEST_START_S)
    return now + max(window, latest - now) * (1 + jitter) / 2


def spread_out(pause_s: float, jitter: float) -> float:
    """A pause after a failure, such that those who failed together do not come back together."""
    return pause_s * (1 + PAUSE_SPREAD * jitter)


def call_time(held: Life | None, now: float, longest_s: float) -> float:
    """How many seconds one call to the CA may take, at most `longest_s`.

    Only a part of what is left of the certificate in hand: others must be possible after it.
    """
    if held is None or held.end <= now:
        return longest_s
    return min(longest_s, max((held.end - now) * CALL_PART, SHORTEST_CALL_S))


def _pause(failures: int) -> float:
    if not failures:
        return 0.0
    # The exponent is capped first: 2.0 ** 2000 overflows.
    return min(2.0 ** min(failures, 8), LONGEST_PAUSE_S / (1 + PAUSE_SPREAD))


def _longest_pause(held: Life, now: float) -> float:
    shortest = min(SHORTEST_PAUSE_S, (held.end - held.start) * SHORTEST_PART)
    return max((held.end - now) * PAUSE_PART, shortest)
