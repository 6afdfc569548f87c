"""Where it ran: what a reader needs to weigh the figures."""

import os
import platform
from pathlib import Path


def release() -> str:
    """The Debian release ("12"), empty where /etc/os-release does not say."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_ID="):
            return line.partition("=")[2].strip('"')
    return ""


def describe() -> str:
    """Cores, processor, kernel, distribution and interpreter, in one line."""
    cores = len(os.sched_getaffinity(0))
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{cores} cores ({model}), Linux {platform.release()}, Debian {release() or '?'},"
        f" Python {platform.python_version()}"
    )


def load() -> str:
    """The load averages of one and five minutes: other work shows here."""
    one, five, _ = os.getloadavg()
    return f"{one:.1f} {five:.1f}"


def disturbance() -> str:
    """A warning when others keep the cores busy; empty when they do not."""
    cores = len(os.sched_getaffinity(0))
    if os.getloadavg()[0] <= cores / 2:
        return ""
    return "others keep the cores busy: wall time, and ratios of it, say little"
