"""Consul: a catalogue of services, with DNS.

The last release under the MPL whose modules the module proxy serves. Of the three modules that its
own go.mod replaces by directories beside it, the proxy serves the versions that are named there.
"""

import json

from tests.peers.peer import Peer, Trial

_INPUTS: dict[str, object] = {
    "agent.json": {
        "datacenter": "dc1",
        "data_dir": "data",
        "server": True,
        "bootstrap": True,
        "bind_addr": "127.0.0.1",
        "acl": {"enabled": True, "default_policy": "deny"},
        "service": {"name": "web", "port": 8080},
    },
}

PEER = Peer(
    inputs={name: json.dumps(value) for name, value in _INPUTS.items()},
    trials=(
        Trial("consul", ("validate", "agent.json"), says=("Configuration is valid!",)),
        Trial("consul", ("version",), says=("Consul v1.14.11",)),
    ),
)
