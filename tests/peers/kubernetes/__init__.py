"""Kubernetes: an API server with the store behind it, and its own client.

The store is etcd, of the version that this API server is released with.
"""

import json

from tests.peers.peer import Peer, Trial

VERSION = "v1.36.3"
_STAMP = "k8s.io/component-base/version."
_MAJOR, _MINOR, _ = VERSION.removeprefix("v").split(".")
_INPUTS: dict[str, object] = {
    "etcd.yaml": {
        "name": "mesh.invalid",
        "data-dir": "data",
        "listen-client-urls": "http://127.0.0.1:0",
        "advertise-client-urls": "http://127.0.0.1:0",
        "listen-peer-urls": "http://127.0.0.1:0",
    },
    "kubeconfig": {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "mesh.invalid",
        "contexts": [{"name": "mesh.invalid", "context": {"cluster": "none", "user": "none"}}],
        "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "none", "user": {}}],
    },
}

PEER = Peer(
    # JSON is YAML.
    inputs={name: json.dumps(value) for name, value in _INPUTS.items()},
    trials=(
        Trial(
            "etcd",
            ("--config-file", "etcd.yaml"),
            says=('"name":"mesh.invalid"', "ready to serve client requests"),
        ),
        # What was stamped; more takes keys of its own, and tests/lab/cluster.py tries that.
        Trial("kube-apiserver", ("--version",), says=(f"Kubernetes {VERSION}",)),
        Trial(
            "kubectl",
            ("--kubeconfig", "kubeconfig", "config", "current-context"),
            says=("mesh.invalid",),
        ),
    ),
    renamed={"server": "etcd"},
    stamped={
        f"{_STAMP}gitVersion": VERSION,
        f"{_STAMP}gitMajor": _MAJOR,
        f"{_STAMP}gitMinor": _MINOR,
    },
)
