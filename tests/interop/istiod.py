"""A real istiod in a network namespace of its own, from a binary that is handed in.

    with netns.Network("cluster", f"{ADDRESS}/24") as network:
        with Istiod(binary, network, directory, authority) as istiod:
            ...                                # serves ADDRESS:PORT under the name NAME
            istiod.restart(authority.successor())

Its cluster is empty (see kubernetes.py) and it judges tokens by a JWT rule, so it needs nothing
from outside the namespace.
"""

import http.client
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.lab import netns

from . import authority as authorities
from . import kubernetes

ADDRESS, PORT = "10.79.0.1", 15012
NAME = "istiod.istio-system.svc"
CLUSTER_ID = "Kubernetes"
READY_LIMIT_S = 60.0
TAIL_LINES = 30
# Filters that Istio's own build of Envoy has and a stock one has not.
_STOCK = {"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false"}
_LOOPBACK = "127.0.0.1"
_STATUS_PORT = 18080
_MONITORING_PORT = 15014
_SYSTEM_NAMESPACE = "istio-system"


class Istiod:
    """The process and its files. A context manager: entered ready, left stopped."""

    def __init__(
        self,
        binary: Path,
        network: netns.Network,
        directory: Path,
        authority: authorities.Authority,
    ) -> None:
        """`network` has ADDRESS; `directory` is there and empty."""
        # Changed before it is started: whether it sends what only Istio's own Envoy understands.
        self.is_for_stock_envoy = True
        self.network = network
        self.authority = authority
        self._binary = binary
        self._directory = directory
        self._log = directory / "istiod.log"
        self._services = directory / "services"
        self._api = kubernetes.KubernetesApi(network.bind(_LOOPBACK, 0), authority.key_set())
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Istiod":
        self._api.__enter__()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        self._api.__exit__()

    def start(self) -> None:
        """Start it and return when it is ready. Raises LabError with its last words."""
        self.authority.write(self._directory / "ca")
        (self._directory / "kubeconfig").write_text(self._api.kubeconfig())
        self._services.mkdir(exist_ok=True)
        (self._directory / "mesh.yaml").write_text(_mesh_config(self._services))
        # Nothing of the caller's environment: istiod has hundreds of variables.
        environment = [f"{name}={value}" for name, value in self._environment().items()]
        with self._log.open("a") as log:
            self._process = self.network.popen(
                ["env", "-i", *environment, *self._argv()],
                stdout=log,
                stderr=log,
                cwd=self._directory,
            )
        self._wait_ready()

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            netns.end([self._process])
            self._process = None

    def restart(self, authority: authorities.Authority) -> None:
        """Stop it and start it with another authority, whose token key must be the same."""
        self.stop()
        self.authority = authority
        self.start()

    def write_service(self, name: str, address: str, port: int) -> None:
        """Put a service into the mesh that has an address of its own, before it is started."""
        entry = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": name.split(".")[0], "namespace": _SYSTEM_NAMESPACE},
            "spec": {
                "hosts": [name],
                "addresses": [address],
                "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
                "resolution": "STATIC",
                "endpoints": [{"address": ADDRESS}],
            },
        }
        self._services.mkdir(exist_ok=True)
        (self._services / f"{name}.yaml").write_text(json.dumps(entry))

    def write_config(self, kind: str, name: str, spec: Mapping[str, object]) -> None:
        """Put one object of Istio's into the mesh; a running istiod sees it."""
        group = "security" if kind == "PeerAuthentication" else "networking"
        entry = {
            "apiVersion": f"{group}.istio.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": authorities.NAMESPACE},
            "spec": spec,
        }
        self._services.mkdir(exist_ok=True)
        # By a rename: half a file is an error of its own.
        path = self._services / f"{kind}-{name}.yaml"
        path.with_suffix(".new").write_text(json.dumps(entry))
        path.with_suffix(".new").rename(path)

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def _argv(self) -> list[str]:
        return [
            str(self._binary),
            "discovery",
            "--kubeconfig",
            str(self._directory / "kubeconfig"),
            "--meshConfig",
            str(self._directory / "mesh.yaml"),
            "--networksConfig",
            str(self._directory / "no-networks.yaml"),
            "--clusterID",
            CLUSTER_ID,
            "--namespace",
            _SYSTEM_NAMESPACE,
            "--secureGRPCAddr",
            f"{ADDRESS}:{PORT}",
            "--httpAddr",
            f"{_LOOPBACK}:{_STATUS_PORT}",
            "--monitoringAddr",
            f"{_LOOPBACK}:{_MONITORING_PORT}",
            # Webhooks and plain text: not served.
            "--httpsAddr",
            "",
            "--grpcAddr",
            "",
        ]

    def _environment(self) -> dict[str, str]:
        rule = {
            "issuer": authorities.ISSUER,
            "jwks_uri": self._api.url + kubernetes.KEY_SET_PATH,
            "audiences": [authorities.AUDIENCE],
        }
        return {
            "POD_NAME": "istiod-test",
            "POD_NAMESPACE": _SYSTEM_NAMESPACE,
            "ROOT_CA_DIR": str(self._directory / "ca"),
            "JWT_RULE": json.dumps(rule),
            # What our small API does not speak: protobuf, and lists as the beginning of a watch.
            "ISTIO_KUBE_CLIENT_CONTENT_TYPE": "json",
            "KUBE_FEATURE_WatchListClient": "false",
            # What would write into the cluster.
            "ENABLE_LEADER_ELECTION": "false",
            "INJECT_ENABLED": "false",
            "PILOT_ENABLE_GATEWAY_API": "false",
        } | (_STOCK if self.is_for_stock_envoy else {})

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_LIMIT_S
        while not self._is_ready():
            status = self._process.poll()
            if status is not None:
                raise netns.LabError(f"istiod ended with status {status}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                problem = f"istiod is not ready after {READY_LIMIT_S:g} s"
                raise netns.LabError(f"{problem}:\n{self.log_tail()}")
            # Nothing tells of readiness; it has to be asked for.
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(_LOOPBACK, _STATUS_PORT)
        try:
            connection.sock = self.network.connect(_LOOPBACK, _STATUS_PORT)
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _mesh_config(services: Path) -> str:
    # JSON is YAML.
    return json.dumps(
        {
            "trustDomain": authorities.TRUST_DOMAIN,
            "rootNamespace": _SYSTEM_NAMESPACE,
            "ingressControllerMode": "OFF",
            "configSources": [{"address": f"fs://{services}"}, {"address": "k8s://"}],
            "defaultConfig": {"discoveryAddress": f"{NAME}:{PORT}"},
        }
    )
