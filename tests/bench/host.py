"""A host of ours in a place: its files, and its agent."""

import enum
import json
import os
import socket
from collections.abc import Mapping

from istio_hostagent.host import control
from tests.interop import authority as authorities
from tests.interop import istiod as istiods
from tests.lab.host import CHECKOUT, proxy_user

from . import agentlog, cost, files, istio, site

# What the agent says of itself (its log), and what it means here.
PROVEN = "redirection proven with packets"
IN_MESH = "in the mesh as "
WAITING = "waiting for "
NO_PROXY = "no envoy found"


class Proxy(enum.Enum):
    """What the agent is given to run."""

    ENVOY = enum.auto()
    DIRECTED = enum.auto()  # Envoy, told by istiod what to do
    PILOT_AGENT = enum.auto()
    STAND_IN = enum.auto()  # a shell in Envoy's place
    NONE = enum.auto()


class Host(files.Files):
    """A host that knows everything and has done nothing yet. A context manager."""

    def __init__(
        self,
        here: site.Site,
        authority: site.Authority | None = None,
        *,
        keys: Mapping[str, str] | None = None,
        programs: istio.Programs | None = None,
    ) -> None:
        """`keys`: what to capture, the standard set by default; none: there is no configuration.

        `authority`: the demo's by default. `programs`: needed to run a pilot-agent.
        """
        authority = authority or here.demo
        keys = files.STANDARD if keys is None else keys
        mesh = {
            "CA_ADDR": f"{istiods.NAME}:{istiods.PORT}",
            "ISTIO_META_CLUSTER_ID": istiods.CLUSTER_ID,
            "ISTIO_NAMESPACE": authorities.NAMESPACE,
            "SERVICE_ACCOUNT": authorities.SERVICE_ACCOUNT,
            "TRUST_DOMAIN": authorities.TRUST_DOMAIN,
        }
        super().__init__({**keys, **mesh} if keys else {})
        self._site, self._programs = here, programs
        self.pid = 0
        self.began_ms = 0.0
        self.agent_log: agentlog.Log | None = None
        token = self.directory / "certs" / "token"
        token.write_text(authority.make_token())
        os.chown(token, *proxy_user())
        token.chmod(0o600)
        root = self.directory / "root-cert.pem"
        root.write_bytes(authority.root)
        self._keys = {
            "OUTPUT_CERTS": str(self.directory / "certs"),
            "ISTIO_HOSTAGENT_TOKEN_FILE": str(token),
            "CA_ROOT_CA": str(root),
        }
        try:
            self.place = here.place(authority)
        except BaseException:
            super().close()
            raise

    @property
    def log(self) -> agentlog.Log:
        """What the agent of the last start says."""
        assert self.agent_log is not None
        return self.agent_log

    @property
    def has_certificate(self) -> bool:
        return (self.directory / "certs" / "cert-chain.pem").exists()

    def start(self, proxy: Proxy) -> None:
        """Start the agent with this proxy."""
        settings = {**self._keys, **self._proxy_keys(proxy)}
        (self.directory / "etc" / "hostagent.env").write_text(files.keys_text(settings))
        log = agentlog.Log()
        argv = [self.program, "run"]
        environment = self.environment | files.unit_environment()
        self.began_ms, self.pid = self.place.spawn(argv, environment, output=log.write_end)
        log.handed_over()
        self.agent_log = log

    def serve_secrets(self) -> int:
        """Start a secret server that proxies started from now on use; returns its pid."""
        uid, gid = proxy_user()
        place = self.directory / "secrets"
        place.mkdir()
        os.chown(place, uid, gid)
        user = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--pdeathsig=KILL"]
        launch = CHECKOUT / "istio_hostagent" / "workers" / "launch.py"
        current = self.directory / "state" / "certs" / "current"
        program = [cost.PYTHON, "-IS", str(launch), "secrets", str(current), str(place / "socket")]
        environment = cost.ENVIRONMENT | files.unit_environment()
        _, pid = self.place.spawn([cost.SETPRIV, *user, *program], environment)
        self._keys["ISTIO_HOSTAGENT_SECRET_SOCKET"] = str(place / "socket")
        return pid

    def _proxy_keys(self, proxy: Proxy) -> dict[str, str]:
        if proxy is not Proxy.PILOT_AGENT:
            binary = {
                Proxy.ENVOY: self._site.envoy,
                Proxy.DIRECTED: self._site.envoy,
                Proxy.STAND_IN: self._site.stand_in,
                Proxy.NONE: self.directory / "absent",
            }[proxy]
            return {
                "ISTIO_HOSTAGENT_PROXY": "envoy",
                "ISTIO_HOSTAGENT_ENVOY": str(binary),
                "ISTIO_HOSTAGENT_CONTROL_PLANE": ("istiod" if proxy is Proxy.DIRECTED else "none"),
            }
        assert self._programs is not None
        return {
            "ISTIO_HOSTAGENT_PROXY": "pilot-agent",
            "ISTIO_HOSTAGENT_ENVOY": str(self._site.envoy),
            "ISTIO_BIN_BASE": str(self._programs.pilot_agent.parent),
            "ISTIO_BOOTSTRAP": str(self._programs.bootstrap),
        }

    def wait_for(
        self, text: str, *, since_ms: float = 0.0, limit_s: float = agentlog.PATIENCE_S
    ) -> float:
        """When the agent first said this, in ms after `since_ms`; raises NotMeasured."""
        began = since_ms or self.began_ms
        return self.log.wait_for(text, since_ms=began, limit_s=limit_s) - began

    def find(self, name: str) -> int:
        """The one process of this host that runs a binary of this name; raises NotMeasured."""
        found = self.place.find(name)
        if len(found) != 1:
            raise cost.NotMeasured(f"a host has {len(found)} processes {name}")
        return found[0]

    def kill(self) -> float:
        """SIGKILL the agent; returns the CPU in ms that it and its ended children had used."""
        pid, self.pid = self.pid, 0
        return cost.kill(pid)

    def end_all(self) -> float:
        """As `kill`, and every other process of the host ends, too; raises NotMeasured."""
        pid, self.pid = self.pid, 0
        return self.place.end_all(pid)

    def ask(self, verb: str) -> float:
        """Ask the agent, as the command line does, and return how long its answer took, in ms."""
        # Not through the product's own client: that looks for the agent of this process's
        # namespace, and a socket in the file system can be reached from any.
        path = os.path.join(control.DIRECTORY, f"{self.place.namespace.inode}.sock")
        began = cost.now_ms()
        line = bytearray()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(agentlog.PATIENCE_S)
            connection.connect(path)
            connection.sendall(json.dumps({"verb": verb}).encode() + b"\n")
            while part := connection.recv(65536):
                line += part
        took = cost.now_ms() - began
        answer = json.loads(line)
        found = answer.get("verification", {"in_place": True})
        if not answer["ok"] or not found["in_place"]:
            kinds = ("differences", "second_reader", "broken")
            wrong = [text for kind in kinds for text in found.get(kind, ())]
            raise cost.NotMeasured(f"{verb}: {'; '.join(wrong) or answer}")
        return took

    def close(self) -> None:
        if self.pid:
            self.kill()
        self.place.close()
        super().close()


def join(hosts: list[Host], proxy: Proxy) -> None:
    """Start agents together and wait until all are in the mesh; raises NotMeasured."""
    for host in hosts:
        host.start(proxy)
    for host in hosts:
        host.wait_for(IN_MESH)
