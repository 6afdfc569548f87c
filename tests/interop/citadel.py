"""A real Citadel (istio_ca) of Istio 0.7 to 1.0 in a network namespace, from a binary handed in.

    with netns.Network("cluster", f"{ADDRESS}/24") as network:
        with Citadel(binary, network, directory, life="1h") as citadel:
            citadel.read_pair()            # what its secret controller makes for ACCOUNT

Its cluster has one service account, and keeps the secrets that Citadel writes.
"""

import base64
import http
import json
import subprocess
import threading
import urllib.parse
from pathlib import Path
from typing import Any, ClassVar

from tests.lab import netns
from tests.lab.waiting import eventually

from . import kubernetes

ADDRESS, PORT = "10.79.0.1", 8060
# Names of its certificate: of 0.7 the first by a flag, of later releases both.
NAMES = ("istio-citadel", "istio-ca")
NAMESPACE, ACCOUNT = "default", "vm-sa"
IDENTITY = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{ACCOUNT}"
FILES = ("key.pem", "cert-chain.pem", "root-cert.pem")
_SECRET_TYPE = "istio.io/key-and-cert"
_TAIL_LINES = 20


class _Api(kubernetes.Handler):
    """One connection of Citadel's; what is kept is the class's, made anew for each cluster."""

    kept: ClassVar[dict[str, Any]]
    lock: ClassVar[threading.Lock]

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if "watch" in urllib.parse.parse_qs(url.query):
            super().do_GET()
        elif len(parts) == 6 and parts[4] == "secrets":
            with self.lock:
                found = self.kept.get(f"{parts[3]}/{parts[5]}")
            self.answer(*((200, found) if found else (404, _missing())))
        elif parts[-1] in _LISTED:
            self.answer(200, self._list(parts[-1]))
        else:
            self.answer(404, _missing())

    def do_POST(self) -> None:
        self._keep(http.HTTPStatus.CREATED)

    def do_PUT(self) -> None:
        self._keep(http.HTTPStatus.OK)

    def _keep(self, status: int) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = sent["metadata"]
        found.setdefault("namespace", self.path.strip("/").split("/")[3])
        found["resourceVersion"] = "2"
        with self.lock:
            self.kept[f"{found['namespace']}/{found['name']}"] = {**sent, **_VERSION}
        self.answer(status, {**sent, **_VERSION, "kind": "Secret"})

    def _list(self, kind: str) -> dict[str, object]:
        with self.lock:
            items = [each for each in self.kept.values() if each.get("type") == _SECRET_TYPE]
        if kind == "serviceaccounts":
            account = {"name": ACCOUNT, "namespace": NAMESPACE, "uid": "1", "resourceVersion": "1"}
            items = [{"metadata": account}]
        elif kind == "services":
            items = []
        return {
            **_VERSION,
            "kind": _LISTED[kind],
            "metadata": {"resourceVersion": "1"},
            "items": items,
        }


_VERSION = {"apiVersion": "v1"}
_LISTED = {
    "secrets": "SecretList",
    "serviceaccounts": "ServiceAccountList",
    "services": "ServiceList",
}


def _missing() -> dict[str, object]:
    return {**_VERSION, "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}


class Citadel:
    """The process and its cluster. A context manager: entered ready, left stopped."""

    def __init__(
        self, binary: Path, network: netns.Network, directory: Path, *, life: str = "1h"
    ) -> None:
        """`network` has ADDRESS; `life`: of the pair that its secret controller makes."""
        self._binary, self._network, self._directory = binary, network, directory
        self._life = life
        self._log = directory / "citadel.log"
        self._process: subprocess.Popen[str] | None = None
        cluster = {"kept": {}, "lock": threading.Lock()}
        self._api = kubernetes.KubernetesApi(
            network.bind("127.0.0.1", 0), {}, type("_Cluster", (_Api,), cluster)
        )
        self._kept: dict[str, Any] = cluster["kept"]  # type: ignore[assignment]

    def __enter__(self) -> "Citadel":
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
        """Start it, with the root that it had before, and return when it has made the pair."""
        kubeconfig = self._directory / "kubeconfig"
        kubeconfig.write_text(self._api.kubeconfig())
        flags = f"--self-signed-ca --kube-config {kubeconfig} --grpc-port {PORT}"
        flags += f" --workload-cert-ttl {self._life}"
        # A flag that later releases do not want any more is without effect there.
        flags += f" --grpc-hostname {NAMES[0]}"
        with self._log.open("a") as log:
            self._process = self._network.popen(
                [str(self._binary), *flags.split()], stdout=log, stderr=log, cwd=self._directory
            )
        eventually(self._is_ready, "Citadel is ready", within_s=60)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            netns.end([self._process])
            self._process = None

    def read_pair(self) -> dict[str, bytes]:
        """Key, chain and root of the host's account, by file name."""
        data = self._kept[f"{NAMESPACE}/istio.{ACCOUNT}"]["data"]
        return {name: base64.b64decode(data[name]) for name in FILES}

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise netns.LabError(f"Citadel has ended:\n{self.log_tail()}")
        if f"{NAMESPACE}/istio.{ACCOUNT}" not in self._kept:
            return False
        try:
            self._network.connect(ADDRESS, PORT).close()
        except OSError:
            return False
        return True
