"""A real Envoy in a namespace, started from the product's own bootstrap and process spec."""

import http.client
import importlib.util
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path

from istio_hostagent.config import model
from istio_hostagent.host import sharedmemory
from istio_hostagent.supervise import bootstrap, specs, tls
from tests.lab import admin

from . import authority, network

PROXY_UID = 61337
TRUST_DOMAIN = "cluster.local"
MESH = model.CidrSet.of((ip_network("10.99.7.0/24"), ip_network("fd99:7::/64")))
PLAIN_PORT = 2222  # stands for sshd's port

SETTINGS = model.ProxySettings(mesh=MESH, has_access_log=True, concurrency=1)


def find_envoy() -> str | None:
    """Return the binary named by the environment, or that of the development tools."""
    named = os.environ.get("HOSTAGENT_ENVOY")
    if named:
        return named
    spec = importlib.util.find_spec("envoy")
    for place in spec.submodule_search_locations or () if spec else ():
        binary = Path(place) / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return None


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Ask until it is true; fail with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def build_config(
    settings: model.ProxySettings, output_dir: Path, trust_domain: str = TRUST_DOMAIN
) -> model.Config:
    identity = model.IdentitySettings(
        ca_host="istiod.istio-system.svc",
        ca_port=15012,
        server_names=("istiod.istio-system.svc",),
        trust_domain=trust_domain,
        namespace="vms",
        service_account="web",
        cluster_id="Kubernetes",
        token_file="/nowhere/token",
        root_file="/nowhere/root-cert.pem",
        output_dir=str(output_dir),
        ttl_s=3600,
    )
    redirection = model.Redirection()
    if settings.direct:
        redirection = model.Redirection(is_managed=False, is_none=True)
    return model.Config(redirection, identity, settings)


NO_REDIRECTION = model.Redirection()
FACTS = model.HostFacts(PROXY_UID, PROXY_UID, ssh_ports=(PLAIN_PORT,))


class Proxy:
    """The Envoy of one host. `spiffe_id` is what its certificate says."""

    def __init__(self, envoy: str, host: network.Host, ca: authority.Authority) -> None:
        self.host = host
        self.ca = ca
        self.spiffe_id = f"spiffe://{TRUST_DOMAIN}/ns/vms/sa/{host.device}"
        self.connections: list[dict[str, object]] = []
        self.is_delta = False  # a secret server is asked the other way
        self._envoy = envoy
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="hostagent-envoy-")
        self.directory = Path(self._directory.name)
        self.directory.chmod(0o755)
        self.output_dir = self.directory / "certs"
        self.output_dir.mkdir()
        self._base_id = sharedmemory.find_base_id(str(self.directory), PROXY_UID)
        self.secret_socket = self.directory / "secrets.sock"
        os.chown(self.directory, PROXY_UID, PROXY_UID)
        self.admin_socket = self.directory / specs.ADMIN_SOCKET
        for name in (*specs.PLACES, specs.SHARED_DIRECTORY):
            (self.directory / name).mkdir(mode=0o700)
            os.chown(self.directory / name, PROXY_UID, PROXY_UID)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def rotate(self, ca: authority.Authority | None = None, san: str = "") -> None:
        """Give it a new certificate by the swap of `..data`."""
        files = (ca or self.ca).issue(san or self.spiffe_id)
        authority.install(files, self.output_dir, PROXY_UID)

    def write(self, config: model.Config, facts: model.HostFacts = FACTS) -> Path:
        sds = self.directory / "sds"
        sds.mkdir(exist_ok=True)
        for name, text in bootstrap.render_sds(str(self.output_dir)).items():
            (sds / name).write_text(text)
        file = self.directory / "bootstrap.json"
        text = bootstrap.render_bootstrap(
            config,
            facts,
            tls.Source(str(sds), config.proxy.secret_socket or ""),
            str(self.admin_socket),
            str(self.directory / specs.NAMES_SOCKET),
        )
        if self.is_delta:
            text = text.replace('"GRPC"', '"DELTA_GRPC"')
        file.write_text(text)
        return file

    def validate(
        self,
        settings: model.ProxySettings,
        facts: model.HostFacts = FACTS,
        redirection: model.Redirection = NO_REDIRECTION,
    ) -> tuple[int, str]:
        """Return exit status and output of Envoy's own judgement."""
        config = build_config(settings, self.output_dir)._replace(redirection=redirection)
        file = self.write(config, facts)
        spec = specs.validate_spec(config, facts, self._envoy, str(file))
        done = subprocess.run(self._argv(spec), capture_output=True, text=True, timeout=30)
        return done.returncode, done.stderr

    def start(self, settings: model.ProxySettings, facts: model.HostFacts = FACTS) -> None:
        """Start it with a certificate, and return when it is ready."""
        if not (self.output_dir / "..data").exists():
            self.rotate()
        self.launch(settings, facts)
        wait_until(lambda: self.ready() == 200, f"Envoy ready: {self.log()}")

    def launch(self, settings: model.ProxySettings, facts: model.HostFacts = FACTS) -> None:
        """Start it with what is there, and wait for nothing."""
        config = build_config(settings, self.output_dir)
        file = self.write(config, facts)
        spec = specs.envoy_spec(config, facts, self._envoy, str(file), str(self.directory))
        spec = specs.launched(spec, self._base_id, 0)
        reader, writer = os.pipe()
        # Envoy opens /dev/stdout by name, which a pipe of somebody else refuses.
        os.fchown(writer, PROXY_UID, PROXY_UID)
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._argv(spec), stdout=writer, stderr=log, env=dict(spec.environment)
            )
        os.close(writer)
        threading.Thread(target=self._read_log, args=(reader,), daemon=True).start()

    def run_envoy(self, arguments: Sequence[str]) -> None:
        """Start it with these arguments and nothing of the product's."""
        spec = specs.ProcessSpec("envoy", (self._envoy, *arguments), (), PROXY_UID, PROXY_UID)
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(self._argv(spec), stderr=log, env={})

    def _argv(self, spec: specs.ProcessSpec) -> list[str]:
        user = [f"--reuid={spec.user_uid}", f"--regid={spec.user_gid}", "--clear-groups"]
        inside = ["/usr/bin/nsenter", f"--net=/run/netns/{self.host.name}"]
        return [*inside, "/usr/bin/setpriv", *user, "--pdeathsig=KILL", "--", *spec.argv]

    def _read_log(self, reader: int) -> None:
        with os.fdopen(reader) as lines:
            for line in lines:
                # One that is killed while it writes leaves the beginning of a line.
                if line.endswith("\n"):
                    self.connections.append(json.loads(line))

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def get(self, port: int, path: str, address: str = "127.0.0.1") -> tuple[int, str]:
        """GET from this host's loopback; status 0 while nobody listens."""
        try:
            client = self.host.connect(address, port)
        except ConnectionRefusedError:
            return 0, ""
        with client:
            connection = http.client.HTTPConnection("localhost")
            connection.sock = client
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def ask(self, target: str) -> str:
        """What its admin interface says."""
        status, text = admin.ask(self.admin_socket, target)
        assert status == 200, text
        return text

    def ready(self) -> int:
        return self.get(SETTINGS.status_port, "/healthz/ready")[0]

    def finished(self, direction: str, port: int) -> dict[str, object]:
        """Wait for the access-log line of the last connection to the port, and return it."""
        suffix = f":{port}"

        def matching() -> list[dict[str, object]]:
            return [
                line
                for line in self.connections
                if line["direction"] == direction and str(line["destination"]).endswith(suffix)
            ]

        wait_until(matching, f"a line for {direction} {port} in {self.connections}")
        return matching()[-1]

    def with_server(self, settings: model.ProxySettings = SETTINGS) -> model.ProxySettings:
        """The same settings, with secrets from a server at `secret_socket`."""
        return settings._replace(secret_socket=str(self.secret_socket))

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        Path(sharedmemory.path_of(self._base_id)).unlink(missing_ok=True)
        self._directory.cleanup()
