"""A real Kubernetes API server with etcd behind it, from the programs of `make peers`.

    with Cluster(programs, directory) as cluster:      # ready within seconds, on 127.0.0.1
        cluster.create(NAMESPACE_VMS)
        cluster.write_kubeconfig(directory / "config")

There is nothing else of Kubernetes: no controller gives a new namespace its default service
account, fills the address of a load balancer or deletes what a deleted namespace held. Its
users: a member of system:masters with a client certificate and with a token, and one by token
that may do nothing (RBAC). Tokens of service accounts are signed (TokenRequest works).

Everything lies in the directory that is given; both processes end with the context manager.
"""

import contextlib
import datetime
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.demo import ca_material

from . import layers, netns

ADMIN, NOBODY = "admin", "nobody"
TOKENS = {ADMIN: "admin-token-of-the-lab", NOBODY: "token-without-rights"}
SERVICE_CIDR = "10.96.0.0/16"
ISSUER = "https://kubernetes.default.svc.cluster.local"
# It takes a second where nothing else runs.
READY_LIMIT_S = 180.0
TAIL_LINES = 30
_LOOPBACK = "127.0.0.1"
Object = dict[str, Any]


class ApiError(Exception):
    """The API server answered something else than success: `status`, and its words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status


class Cluster:
    """The two processes and their files. A context manager: entered ready, left stopped."""

    def __init__(
        self,
        programs: Path,
        directory: Path,
        *,
        service_cidr: str = SERVICE_CIDR,
        namespace: netns.Namespace | None = None,
        address: str = _LOOPBACK,
        token_key: bytes = b"",
    ) -> None:
        """`programs`: where etcd and kube-apiserver are; `directory` is there and empty.

        With a `namespace` the API server listens in there on `address`, else on this machine's
        loopback. `token_key`: what signs tokens of service accounts, PEM; else a new one.
        """
        self.directory = directory
        self.address = address
        self.port = 0
        self.authority = ca_material.new_root("Lab cluster", _now())
        self._programs = programs
        self._service_cidr = service_cidr
        self._token_key = token_key
        self._namespace = namespace
        self._etcd_url = ""
        self._etcd: subprocess.Popen[str] | None = None
        self._server: subprocess.Popen[str] | None = None
        self._pairs: dict[str, tuple[Path, Path]] = {}

    def __enter__(self) -> "Cluster":
        try:
            self._write_files()
            self._start_etcd()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()
        if self._etcd is not None:
            netns.end([self._etcd])
            self._etcd = None

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"https://{self.address}:{self.port}"

    @property
    def root(self) -> Path:
        """The certificate of its authority."""
        return self.directory / "ca.crt"

    @property
    def pair(self) -> tuple[Path, Path]:
        """Certificate and key of the administrator."""
        return self._pairs[ADMIN]

    def start(self) -> None:
        """Start the API server again, on the same port, with what etcd holds."""
        self.port = self.port or self._free_port()
        self._server = self._popen("kube-apiserver", self._server_words())
        self._wait(self._server, "kube-apiserver", self._is_ready)

    def kill(self) -> None:
        """End the API server at once, as a crash does; etcd goes on."""
        if self._server is not None:
            self._server.send_signal(signal.SIGKILL)
            self._server.wait()
            self._server = None

    def stop_answering(self) -> None:
        """Freeze the API server: connections are made and nothing is said."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        """End what `stop_answering` began."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def client_pair(self, name: str, *groups: str, life_s: float = 3600) -> tuple[Path, Path]:
        """Return certificate and key (files) of a user; of one that is over if life is < 0."""
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        pair = ca_material.new_key()
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
        end = _now() + datetime.timedelta(seconds=life_s)
        builder = x509.CertificateBuilder(
            self.authority.certificate.subject, x509.Name(subject), pair.public_key()
        ).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(end - datetime.timedelta(days=1)).not_valid_after(end)
        usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
        signed = builder.sign(self.authority.key, hashes.SHA256())
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(ca_material.key_pem(pair))
        key.chmod(0o600)
        return certificate, key

    def kubeconfig(self, **user: object) -> Object:
        """Return a kubeconfig; `user` is how its user is known, else the administrator's pair."""
        certificate, key = self.pair
        files = {"client-certificate": str(certificate), "client-key": str(key)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "clusters": [
                {
                    "name": "lab",
                    "cluster": {"server": self.url, "certificate-authority": str(self.root)},
                }
            ],
            "users": [{"name": "lab", "user": user or files}],
        }

    def write_kubeconfig(self, path: Path, **user: object) -> Path:
        """Write one (JSON is YAML) and return its path."""
        path.write_text(json.dumps(self.kubeconfig(**user)))
        return path

    def request(self, method: str, path: str, body: object = None) -> Object:
        """Ask as the administrator and return the object in the answer. Raises ApiError."""
        connection = self._connection()
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise ApiError(answer.status, text)
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def create(self, *objects: Object) -> None:
        """Create objects of the kinds of `path_of`, in this order, with their status if any."""
        for each in objects:
            made = self.request("POST", path_of(each, collection=True), each)
            if "status" in each:
                made["status"] = each["status"]
                self.request("PUT", f"{path_of(each)}/status", made)

    def add_istio(self, istioctl: Path) -> None:
        """Install the custom resources of Istio, as its operator's tool has them."""
        command = [str(istioctl), "manifest", "generate", "--set", "profile=empty"]
        done = subprocess.run(
            [*command, "--set", "components.base.enabled=true"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"HOME": str(self.directory)},
        )
        kubectl = [
            str(self._programs / "kubectl"),
            "--kubeconfig",
            str(self.directory / "kubeconfig"),
        ]
        definitions = self.directory / "istio.yaml"
        definitions.write_text(done.stdout)
        self.write_kubeconfig(self.directory / "kubeconfig")
        parts = ["create", "namespace", "istio-system"], ["apply", "-f", str(definitions)]
        for words in parts:
            self._kubectl([*kubectl, *words])
        waiting = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]
        self._kubectl([*kubectl, *waiting])

    def delete_all(self, version: str, kind: str, namespace: str) -> None:
        """Delete every object of a kind in a namespace."""
        each = {"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace}}
        self.request("DELETE", path_of(each, collection=True))

    def log_tail(self, program: str = "kube-apiserver") -> str:
        """Return the last lines of a program's log."""
        path = self.directory / f"{program}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def _kubectl(self, argv: list[str]) -> None:
        if self._namespace is not None:
            argv = self._namespace.argv(argv)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise netns.LabError(f"{' '.join(argv)}: {done.stderr}")

    def _write_files(self) -> None:
        self.root.write_bytes(self.authority.pem)
        key = ca_material.new_key()
        names = [self.address, _LOOPBACK, "localhost", "kubernetes.default.svc"]
        chain = ca_material.server_certificate(self.authority, key, names, _now())
        (self.directory / "server.crt").write_bytes(chain)
        (self.directory / "server.key").write_bytes(ca_material.key_pem(key))
        signing = self._token_key or ca_material.key_pem(rsa.generate_private_key(65537, 2048))
        (self.directory / "sa.key").write_bytes(signing)
        public = (
            serialization.load_pem_private_key(signing, None)
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        (self.directory / "sa.pub").write_bytes(public)
        groups = {ADMIN: "system:masters"}
        lines = [f"{token},{user},{user},{groups.get(user, '')}" for user, token in TOKENS.items()]
        (self.directory / "tokens.csv").write_text("\n".join(lines) + "\n")
        self._pairs[ADMIN] = self.client_pair(ADMIN, "system:masters")

    def _start_etcd(self) -> None:
        # Sockets in the file system: no port that somebody else might take. etcd wants names
        # that look like ports, and makes them where it runs.
        client, peer = "etcd:1", "etcd:2"
        self._etcd_url = f"unix://{self.directory}/{client}"
        words = [
            "--data-dir=etcd",
            f"--listen-client-urls=unix://{client}",
            f"--advertise-client-urls=unix://{client}",
            f"--listen-peer-urls=unix://{peer}",
            f"--initial-advertise-peer-urls=unix://{peer}",
            f"--initial-cluster=default=unix://{peer}",
            "--log-level=warn",
            # What is written here outlives no test.
            "--unsafe-no-fsync",
        ]
        self._etcd = self._popen("etcd", words)
        self._wait(self._etcd, "etcd", (self.directory / client).exists)

    def _server_words(self) -> list[str]:
        return [
            f"--etcd-servers={self._etcd_url}",
            f"--bind-address={self.address}",
            f"--secure-port={self.port}",
            f"--service-cluster-ip-range={self._service_cidr}",
            "--tls-cert-file=server.crt",
            "--tls-private-key-file=server.key",
            "--client-ca-file=ca.crt",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=RBAC",
            f"--service-account-issuer={ISSUER}",
            "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key",
            # Nobody makes the accounts that it would demand of each pod.
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--profiling=false",
            # Work that nobody here has a use for.
            "--enable-priority-and-fairness=false",
            "--runtime-config=api/beta=false,api/alpha=false",
        ]

    def _popen(self, program: str, words: list[str]) -> subprocess.Popen[str]:
        argv = [str(self._programs / program), *words]
        with (self.directory / f"{program}.log").open("a") as log:
            if self._namespace is not None:
                return self._namespace.popen(argv, stdout=log, stderr=log, cwd=self.directory)
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                text=True,
                process_group=0,
                env={"HOME": str(self.directory), "PATH": os.environ["PATH"]},
            )

    def _free_port(self) -> int:
        if self._namespace is not None:
            return 6443
        with socket.socket() as probe:
            probe.bind((self.address, 0))
            port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port

    def _wait(self, process: subprocess.Popen[str], program: str, is_ready: Any) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while not is_ready():
            status = process.poll()
            if status is not None:
                problem = f"{program} ended with status {status}"
                raise netns.LabError(f"{problem}:\n{self.log_tail(program)}")
            if time.monotonic() > deadline:
                problem = f"{program} is not ready after {READY_LIMIT_S:g} s"
                raise netns.LabError(f"{problem}:\n{self.log_tail(program)}")
            # Nothing tells of readiness; it has to be asked for, which is work for it, too.
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        connection = self._connection()
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.root))
        context.load_cert_chain(*self.pair)
        connection = http.client.HTTPSConnection(
            self.address, self.port, timeout=30, context=context
        )
        if self._namespace is not None:
            with contextlib.suppress(OSError):
                plain = self._namespace.connect(self.address, self.port, timeout_s=30)
                connection.sock = context.wrap_socket(plain, server_hostname=self.address)
        return connection


_GROUPS = {
    "v1": "api/v1",
}
_PLURALS = {"Endpoints": "endpoints", "ServiceEntry": "serviceentries"}
_PLURALS |= {"WorkloadEntry": "workloadentries", "NetworkPolicy": "networkpolicies"}
_CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "ServiceCIDR"}


def path_of(each: Mapping[str, Any], *, collection: bool = False) -> str:
    """Return where an object is, or with `collection` where it is created."""
    version, kind = each["apiVersion"], each["kind"]
    parts = [_GROUPS.get(version, f"apis/{version}")]
    if kind not in _CLUSTER_WIDE:
        parts += ["namespaces", each["metadata"]["namespace"]]
    parts.append(_PLURALS.get(kind, f"{kind.lower()}s"))
    if not collection:
        parts.append(urllib.parse.quote(each["metadata"]["name"]))
    return "/" + "/".join(parts)


def namespace_object(name: str) -> Object:
    """Return a namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


@contextlib.contextmanager
def needed(programs: Path, directory: Path, **how: Any) -> Iterator[Cluster]:
    """A running cluster, for a fixture; skips, or fails if its layer is required, without one."""
    missing = [name for name in ("etcd", "kube-apiserver") if not (programs / name).is_file()]
    problem = f"needs {' and '.join(missing)}: `make peers` builds them" if missing else ""
    layers.require("interop", problem)
    with Cluster(programs, directory, **how) as cluster:
        yield cluster
        # Shown for a test that failed only.
        print(f"--- the end of the API server's log\n{cluster.log_tail()}")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
