"""A real agent of Consul in a network namespace, from the program of `make peers`.

    with netns.Network("dc", "10.83.0.1/24") as network:
        with Consul(binary, network, directory, "10.83.0.1") as server:
            server.get("catalog", "services")

A server is ready when it leads, a client when it has joined. State is kept over `stop` and
`start`, as on a disk. With `acl` everything is denied but to who has a token; `MASTER` may do all.
"""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.peers import build

from . import layers, netns

VARIABLE = "ISTIO_HOSTAGENT_TEST_CONSUL"
HTTP_PORT, DNS_PORT = 8500, 8600
DATACENTER = "dc1"
MASTER = "00000000-0000-0000-0000-00000000000a"
READY_LIMIT_S = 60.0
TAIL_LINES = 30
_LOOPBACK = "127.0.0.1"
_PAUSE_S = 0.05


def find_binary() -> Path:
    """The program that a variable names, or that of `make peers`; skips, or fails on demand."""
    path = Path(os.environ.get(VARIABLE) or build.directory("consul") / "consul")
    problem = f"needs a real Consul: `make peers` builds it, or set {VARIABLE} to its path"
    layers.require("interop", "" if os.access(path, os.X_OK) else problem)
    layers.require_namespaces()
    return path.resolve()


class Refused(Exception):
    """It answered something else than success."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status


class Consul:
    """One agent and its files. A context manager: entered ready, left stopped.

    `server`: the address of the server to join; empty: it is one itself.
    """

    def __init__(
        self,
        binary: Path,
        namespace: netns.Namespace,
        directory: Path,
        address: str,
        *,
        name: str = "server",
        server: str = "",
        has_acl: bool = False,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.namespace = namespace
        self.address = address
        self.name = name
        self._binary = binary
        self._directory = directory / f"consul-{name}"
        self._log = self._directory / "log"
        self._server = server
        self._has_acl = has_acl
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Consul":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and return when it is ready; raises LabError with its last words."""
        self._directory.mkdir(exist_ok=True)
        (self._directory / "agent.json").write_text(json.dumps(self._configuration()))
        argv = [str(self._binary), "agent", "-config-file", str(self._directory / "agent.json")]
        with self._log.open("a") as log:
            self._process = self.namespace.popen(argv, stdout=log, stderr=log, cwd=self._directory)
        end = time.monotonic() + READY_LIMIT_S
        while not self._is_ready():
            if time.monotonic() > end or self._process.poll() is not None:
                raise netns.LabError(f"Consul {self.name} is not ready:\n{self.log_tail()}")
            time.sleep(_PAUSE_S)

    def stop(self) -> None:
        """End it, if it runs; it leaves the datacentre as one that is expected back."""
        if self._process is not None:
            netns.end([self._process])
            self._process = None

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def log_tail(self) -> str:
        """The last lines of its log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def get(self, *path: str, **query: str) -> Any:
        """The JSON value at a path of its API; raises Refused, OSError."""
        return self._ask("GET", path, query, None)

    def put(self, *path: str, body: object = None, **query: str) -> Any:
        """Change something; raises the same."""
        return self._ask("PUT", path, query, body)

    def instances(self, name: str) -> dict[tuple[str, int], str]:
        """Address and port of every instance in the catalogue, with its state of health."""
        states = ("passing", "warning", "critical")
        return {
            (each["Service"]["Address"], each["Service"]["Port"]): states[
                max((states.index(check["Status"]) for check in each["Checks"]), default=0)
            ]
            for each in self.get("health", "service", name)
        }

    def make_token(self, rules: str) -> str:
        """A token for a policy of these rules."""
        name = f"p{len(self.get('acl', 'policies'))}"
        self.put("acl", "policy", body={"Name": name, "Rules": rules})
        made = self.put("acl", "token", body={"Policies": [{"Name": name}]})
        return str(made["SecretID"])

    def _ask(
        self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: object
    ) -> Any:
        url = "/v1/" + "/".join(quote(part, safe="") for part in path)
        url += f"?{urlencode(query)}" if query else ""
        connection = http.client.HTTPConnection(_LOOPBACK, HTTP_PORT, timeout=60)
        connection.sock = self.namespace.connect(_LOOPBACK, HTTP_PORT)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, url, body=data, headers={"X-Consul-Token": MASTER})
            answer = connection.getresponse()
            content = answer.read().decode()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise Refused(answer.status, content)
        return json.loads(content) if content.strip() else None

    def _is_ready(self) -> bool:
        try:
            if not self.get("status", "leader"):
                return False
            # Of itself it tells the servers only after that.
            return any(each["Node"] == self.name for each in self.get("catalog", "nodes"))
        except (OSError, Refused, http.client.HTTPException):
            return False

    def _configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "datacenter": DATACENTER,
            "node_name": self.name,
            "data_dir": str(self._directory / "data"),
            "bind_addr": self.address,
            "client_addr": _LOOPBACK,
            "ports": {"http": HTTP_PORT, "dns": DNS_PORT, "grpc": -1, "grpc_tls": -1},
            # The fastest that there is: elections take a second instead of five.
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "connect": {"enabled": False},
            # What is stopped comes back.
            "leave_on_terminate": False,
            "log_level": "info",
        }
        if self._server:
            found |= {"server": False, "retry_join": [self._server], "retry_interval": "1s"}
        else:
            found |= {"server": True, "bootstrap_expect": 1}
        if self._has_acl:
            tokens = {"initial_management": MASTER, "agent": MASTER}
            found["acl"] = {"enabled": True, "default_policy": "deny", "tokens": tokens}
        return found | self._settings
