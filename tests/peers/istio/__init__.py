"""Istio: control plane, agent of a host and tool of an operator, of one commit.

No release: those that the module proxy serves pin modules that it does not serve.
"""

import json

from tests.peers.peer import Copied, Peer, Trial

_ADDRESS = "http://127.0.0.1:9"
_INPUTS: dict[str, object] = {
    "mesh.yaml": {
        "trustDomain": "mesh.invalid",
        "defaultConfig": {"discoveryAddress": "istiod.mesh.invalid:15012"},
    },
    "kubeconfig": {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "none",
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "clusters": [{"name": "none", "cluster": {"server": _ADDRESS}}],
        "users": [{"name": "none", "user": {}}],
    },
    "entry.yaml": {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "vm", "namespace": "vms"},
        "spec": {"address": "192.0.2.7", "labels": {"app": "web"}, "serviceAccount": "web"},
    },
}
_MESH = ("--meshConfig", "mesh.yaml")
_LISTEN_NOWHERE = ("--httpsAddr=", "--grpcAddr=", "--secureGRPCAddr=", "--ctrlz_port=0")
_LISTEN_ANYWHERE = ("--httpAddr=127.0.0.1:0", "--monitoringAddr=127.0.0.1:0")

PEER = Peer(
    # JSON is YAML.
    inputs={name: json.dumps(value) for name, value in _INPUTS.items()},
    # Not in a cloud: nobody is asked which one it is.
    environment={"CLOUD_PLATFORM": "none"},
    trials=(
        # It waits for the cluster of the kubeconfig, which is not there.
        Trial(
            "pilot-discovery",
            ("discovery", "--kubeconfig=kubeconfig", *_MESH, *_LISTEN_NOWHERE, *_LISTEN_ANYWHERE),
            says=("trustDomain: mesh.invalid", "waiting for sync"),
        ),
        # It misses the CA's root.
        Trial(
            "pilot-agent",
            ("proxy", "sidecar", *_MESH),
            says=("CA Endpoint istiod.mesh.invalid:15012", "root CA file for CA does not exist"),
        ),
        Trial("istioctl", ("validate", "-f", "entry.yaml"), says=('"entry.yaml" is valid',)),
    ),
    copied=(Copied("istio.io/istio", "tools/packaging/common/envoy_bootstrap.json"),),
)
