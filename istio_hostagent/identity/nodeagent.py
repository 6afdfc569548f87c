"""What the classic node agent said of each attempt, word for word, so that guides match.

Source: istio/istio security/cmd/node_agent/na/nodeagent.go, 0.2.12 to 1.0.9 (the same words in all
of them); durations as Go prints them.
"""


def sending(failures: int) -> str:
    """An attempt begins."""
    return f"Sending CSR (retrial #{failures}) ..."


def approved(renewal_s: float) -> str:
    """A certificate has come, which is renewed in so many seconds."""
    return f"CSR is approved successfully. Will renew cert in {go_duration(renewal_s)}"


def failed(reason: str, retry_s: float) -> str:
    """None has come."""
    return f"CSR signing failed: {reason}. Will retry in {go_duration(retry_s)}"


def go_duration(seconds: float) -> str:
    """A span of time as Go's Duration.String has it, to the millisecond.

    >>> go_duration(1799.137)
    '29m59.137s'
    """
    milliseconds = max(0, round(seconds * 1000))
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    last = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{last}"
    return f"{minutes}m{last}" if minutes else last
