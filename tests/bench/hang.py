"""A proxy that stops answering (SIGSTOP), until the host serves again.

Stopped once, an Envoy is continued: somebody may have done it by mistake. Stopped a second time it
hangs and is replaced; that is the row. Hosts do it at the same time.
"""

import contextlib
import os
import signal

from . import cost, istio, rows, site
from .host import IN_MESH, Host, Proxy, join

KEYS = ("hang", "hang-pilot")
HOSTS = 3
LIMIT_S = 90.0


def measure(here: site.Site, programs: istio.Programs | rows.Missing) -> rows.Outcomes:
    """All rows of KEYS. Raises NotMeasured, LabError."""
    with contextlib.ExitStack() as stack:
        of_envoy = [stack.enter_context(Host(here)) for _ in range(HOSTS)]
        join(of_envoy, Proxy.ENVOY)
        of_pilot: list[Host] = []
        if not isinstance(programs, rows.Missing):
            authority, programs = here.start_istiod(programs)
            of_pilot = [
                stack.enter_context(Host(here, authority, programs=programs)) for _ in range(HOSTS)
            ]
            join(of_pilot, Proxy.PILOT_AGENT)
        continued = _stop_all(of_envoy + of_pilot)
        replaced = _stop_all(of_envoy + of_pilot)
    found: dict[str, rows.Result | rows.Missing] = {}
    for key, first, last in (("hang", 0, HOSTS), ("hang-pilot", HOSTS, 2 * HOSTS)):
        if not replaced[first:last]:
            assert isinstance(programs, rows.Missing)
            found[key] = programs
            continue
        once = rows.Samples(tuple(continued[first:last])).median
        note = f"stopped for the first time it was continued and served after {once:.1f} s"
        found[key] = rows.make_result(replaced[first:last], notes=[note])
    return found


def _stop_all(hosts: list[Host]) -> list[float]:
    """Stop each host's Envoy; seconds until each serves again."""
    stopped = []
    for host in hosts:
        proxy = host.find("envoy")
        stopped.append(cost.now_ms())
        os.kill(proxy, signal.SIGSTOP)
    return [
        host.wait_for(IN_MESH, since_ms=since, limit_s=LIMIT_S) / 1000.0
        for host, since in zip(hosts, stopped, strict=True)
    ]
