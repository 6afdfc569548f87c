"""Serve what the agent publishes to Prometheus, for long; runs as a user without any right.

No arguments; the socket is systemd's. It ends when nobody has asked for a while, since systemd can
start it again. It asks the agent nothing, and reads one file that everybody may read.
"""

import os
import sys

from .. import gauges
from ..host import activation, garbage, metricsserver, published

# Longer than the usual pause between two scrapes.
IDLE_S = 150.0


def main() -> None:
    """Serve."""
    garbage.collect_after_all()
    listener = activation.take_listener(os.environ)
    if listener is None:
        sys.exit("no socket: systemd has handed none over")
    server = metricsserver.MetricsServer(listener, render, idle_s=IDLE_S)
    garbage.keep_all()
    server.serve()


def render() -> str:
    """The page, as the agent stands now."""
    found = published.read()
    if found.state is None or found.problem:
        return gauges.render_silence(found.state)
    return gauges.render(found.state)


if __name__ == "__main__":
    main()
