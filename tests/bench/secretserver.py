"""The memory of the secret server while an Envoy has its secrets from it, beside pilot-agent's.

A pilot-agent does more than that; where secrets are all that is wanted of it, it is what the server
takes the place of.
"""

from collections import defaultdict

from . import budgets, cost, files, istio, rows, site, together
from .host import Host, Proxy, join
from .peerhost import PeerHost

KEYS = ("secrets", "secrets-own", "together-served")
ROUNDS = 3


def measure(here: site.Site, programs: istio.Programs) -> rows.Outcomes:
    """All rows of KEYS. Raises NotMeasured, LabError."""
    authority, programs = here.start_istiod(programs)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        with Host(here, authority, programs=programs) as host:
            server = host.serve_secrets()
            join([host], Proxy.ENVOY)
            found["together-served"].append(together.pss_mb(host.place.namespace.pids()))
            _, shared, own = cost.memory_mb(server)
            found["secrets"].append(shared)
            found["secrets-own"].append(own)
        with PeerHost(here, authority, programs) as peer:
            peer.start(here.envoy, istio.tuned_rules(programs, files.STANDARD))
            peer.wait_ready()
            found["together-peer"].append(together.pss_mb(peer.place.namespace.pids()))
            _, shared, own = cost.memory_mb(peer.pid)
            found["peer"].append(shared)
            found["peer-own"].append(own)
    beside = {
        "secrets": {budgets.PILOT_AGENT: found["peer"]},
        "secrets-own": {budgets.PILOT_AGENT: found["peer-own"]},
        "together-served": {budgets.PEER_PROCESSES: found["together-peer"]},
    }
    return {key: rows.make_result(found[key], beside[key]) for key in KEYS}
