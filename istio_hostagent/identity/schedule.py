"""When to ask the CA for a certificate: a pure decision.

Not here: asking, and what a failure means. Time and jitter are arguments. While a certificate is
valid the answer never lies after its end; without one, failures still put a pause between
attempts. Instants are unix seconds.
"""

from typing import NamedTuple

# Part of the life by which a fleet started at the same moment spreads out, each way.
SPREAD = 0.05
LONGEST_PAUSE_S = 150.0
# A pause is at most this part of the life that is left, so that a certificate of seconds gets
# more than one try and one of days gets several near its end.
PAUSE_PART = 0.25
SHORTEST_PAUSE_S = 1.0
# ... but no shorter than this part of the whole life: fifty tries at most.
SHORTEST_PART = 0.02


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
) -> float:
    """When to ask the CA next: `now` or later.

    `held`: the certificate in hand, None without one. `failures`: in a row since the last
    success. `jitter`: -1 to 1, drawn by the caller. `ratio`: renew when this part of the life is
    left, 0 to 1.
    """
    if held is None or held.end <= now:
        return now + _pause(failures, jitter)
    if failures:
        return min(now + _bounded_pause(held, now, failures, jitter), held.end)
    part_left = min(max(ratio + SPREAD * jitter, 0.0), 1.0)
    due = held.end - (held.end - held.start) * part_left
    return min(max(now, due), held.end)


def _pause(failures: int, jitter: float) -> float:
    if not failures:
        return 0.0
    # The exponent is capped first: 2.0 ** 2000 overflows.
    seconds = 2.0 ** min(failures, 8) * (1 + 0.2 * jitter)
    return min(seconds, LONGEST_PAUSE_S)


def _bounded_pause(held: Life, now: float, failures: int, jitter: float) -> float:
    shortest = min(SHORTEST_PAUSE_S, (held.end - held.start) * SHORTEST_PART)
    longest = max((held.end - now) * PAUSE_PART, shortest)
    return min(_pause(failures, jitter), longest)
