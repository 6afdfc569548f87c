"""The memory of all processes of a host in the mesh, beside that of the peer's.

PSS divides what processes share among them: so one host at a time runs, with nobody else's Envoy
beside it (the site has its own copy of the binary).
"""

import time
from collections import defaultdict

from . import budgets, cost, files, istio, rows, site
from .host import Host, Proxy, join
from .peerhost import PeerHost

KEYS = ("together-pilot", "together", "together-alone")
ROUNDS = 3
SETTLE_S = 3.0


def measure(here: site.Site, programs: istio.Programs) -> rows.Outcomes:
    """All rows of KEYS. Raises NotMeasured, LabError."""
    authority, programs = here.start_istiod(programs)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for key, proxy in (
            ("together-pilot", Proxy.PILOT_AGENT),
            ("together", Proxy.DIRECTED),
            ("together-alone", Proxy.ENVOY),
        ):
            with Host(here, authority, programs=programs) as host:
                join([host], proxy)
                found[key].append(pss_mb(host.place.namespace.pids()))
        with PeerHost(here, authority, programs) as peer:
            peer.start(here.envoy, istio.tuned_rules(programs, files.STANDARD))
            peer.wait_ready()
            found["peer"].append(pss_mb(peer.place.namespace.pids()))
    beside = {budgets.PEER_PROCESSES: found["peer"]}
    return {key: rows.make_result(found[key], beside) for key in KEYS}


def pss_mb(pids: list[int]) -> float:
    """What these processes take, once they have settled."""
    time.sleep(SETTLE_S)
    return sum(cost.memory_mb(pid)[1] for pid in pids)
