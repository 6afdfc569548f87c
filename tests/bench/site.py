"""The site of the measurements: an authority in a cluster's namespace, agents in hosts of their own.

Files lie as the package lays them out: hostagent.env where only root can write, cluster.env in a
directory of istio-proxy, the state on a disk that has to sync, the runtime directory in memory.
Agents are started without a helper in between: what is measured is theirs from exec on.
"""

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from istio_hostagent.host import control
from tests.demo import ca
from tests.lab import netns
from tests.lab.host import CHECKOUT, proxy_user

from . import agentlog, cost

# The standard configuration: two service networks with an exception, all inbound ports but one.
STANDARD = {
    "ISTIO_SERVICE_CIDR": "10.96.0.0/12,172.20.0.0/16",
    "ISTIO_SERVICE_EXCLUDE_CIDR": "10.96.0.10/32",
    "ISTIO_INBOUND_PORTS": "*",
    "ISTIO_LOCAL_EXCLUDE_PORTS": "9100",
}
CLUSTER, CLUSTER_6, CA_PORT = "10.99.0.1", "fd99::1", 15012

# What the agent says of itself (its log), and what it means here.
PROVEN = "redirection proven with packets"
IN_MESH = "in the mesh as "

_STAND_IN = """\
#!/bin/sh
# Stands for Envoy where its CPU must not count: finds every bootstrap good, then serves nobody.
case " $* " in *" validate "*) exit 0 ;; esac
exec /bin/sleep 600
"""


def keys_text(keys: Mapping[str, str]) -> str:
    """The text of an environment file."""
    return "".join(f"{key}={value}\n" for key, value in keys.items())


class Files:
    """One host's files, and the environment that points the product to them. A context manager."""

    def __init__(self, keys: Mapping[str, str], *, is_root_only: bool = False) -> None:
        """`keys`: cluster.env, in a directory of istio-proxy unless `is_root_only`."""
        self.directory = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/var/tmp"))
        self.runtime = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/run"))
        for each in (self.directory, self.runtime):
            each.chmod(0o755)
        for name in ("etc", "istio", "state", "certs"):
            (self.directory / name).mkdir()
        owner = (0, 0) if is_root_only else proxy_user()
        os.chown(self.directory / "istio", *owner)
        os.chown(self.directory / "certs", *proxy_user())
        self.cluster_env = self.directory / "istio" / "cluster.env"
        self.cluster_env.write_text(keys_text(keys))
        os.chown(self.cluster_env, *owner)
        self.environment = {
            **cost.ENVIRONMENT,
            "PYTHONPATH": str(CHECKOUT),
            "ISTIO_CLUSTER_CONFIG": str(self.cluster_env),
            "ISTIO_SIDECAR_CONFIG": str(self.directory / "istio" / "sidecar.env"),
            "CONFIGURATION_DIRECTORY": str(self.directory / "etc"),
            "STATE_DIRECTORY": str(self.directory / "state"),
            "RUNTIME_DIRECTORY": str(self.runtime),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.runtime, ignore_errors=True)


class Site(contextlib.ExitStack):
    """A cluster with the demo authority; hosts are plugged in one after another."""

    def __init__(self, envoy: str) -> None:
        """`envoy`: a binary that every user may run."""
        super().__init__()
        self._count = 1
        self.directory = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/var/tmp"))
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.directory.chmod(0o755)
        self.envoy = self._reachable(envoy)
        self.stand_in = self.directory / "stand-in"
        self.stand_in.write_text(_STAND_IN)
        self.stand_in.chmod(0o755)
        try:
            addresses = (f"{CLUSTER}/24", f"{CLUSTER_6}/64")
            self.cluster = self.enter_context(netns.Network("cluster", *addresses))
            self._start_authority()
        except BaseException:
            self.close()
            raise

    def _reachable(self, envoy: str) -> str:
        """Give a path that the proxy's user can go: a checkout may lie below /root."""
        uid, gid = proxy_user()
        user = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        test = [cost.SETPRIV, *user, "/usr/bin/test", "-x", envoy]
        if subprocess.run(test, check=False).returncode == 0:
            return envoy
        copy = self.directory / "envoy"
        shutil.copyfile(envoy, copy)
        copy.chmod(0o755)
        return str(copy)

    def _start_authority(self) -> None:
        directory = self.directory / "ca"
        self._authority = ca.DemoAuthority.create(directory)
        listen = ["--listen", f"{CLUSTER}:{CA_PORT}", "--log", str(self.directory / "ca.log")]
        argv = [netns.PYTHON, "-m", "tests.demo.ca", "serve", "--dir", str(directory), *listen]
        server = self.cluster.popen(argv, stdout=subprocess.PIPE, cwd=CHECKOUT)
        assert server.stdout is not None
        if not server.stdout.readline().startswith("listening"):
            raise cost.NotMeasured("the demo authority did not start")

    def host(self) -> "Host":
        """A fresh host that knows everything and has done nothing yet."""
        self._count += 1
        return Host(self, self._count, self._authority)


class Host(Files):
    """A namespace with a way to everywhere, the files of a host that may join, and its agent."""

    def __init__(self, site: Site, number: int, authority: ca.DemoAuthority) -> None:
        super().__init__(
            {
                **STANDARD,
                "CA_ADDR": f"{CLUSTER}:{CA_PORT}",
                "ISTIO_NAMESPACE": "default",
                "SERVICE_ACCOUNT": "web",
                "TRUST_DOMAIN": "cluster.local",
            }
        )
        self._site = site
        self.pid = 0
        self.began_ms = 0.0
        self.agent_log: agentlog.Log | None = None
        token = self.directory / "certs" / "token"
        root = self.directory / "root-cert.pem"
        token.write_text(authority.token("system:serviceaccount:default:web"))
        os.chown(token, *proxy_user())
        token.chmod(0o600)
        shutil.copyfile(authority.root_file, root)
        self._keys = {
            "ISTIO_HOSTAGENT_PROXY": "envoy",
            "OUTPUT_CERTS": str(self.directory / "certs"),
            "ISTIO_HOSTAGENT_TOKEN_FILE": str(token),
            "CA_ROOT_CA": str(root),
        }
        self.namespace = netns.Namespace(f"h{number}")
        try:
            self.namespace.__enter__()
            addresses = (f"10.99.0.{number}/24", f"fd99::{number:x}/64")
            site.cluster.join(self.namespace, *addresses)
            # With a way to everywhere no promise is excused as "no route".
            self.namespace.ip("route", "add", "default", "via", CLUSTER)
            self.namespace.ip("-6", "route", "add", "default", "via", CLUSTER_6)
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> agentlog.Log:
        """What the agent of the last start says."""
        assert self.agent_log is not None
        return self.agent_log

    def start(self, *, has_envoy: bool) -> None:
        """Start the agent, with Envoy or with the stand-in."""
        binary = self._site.envoy if has_envoy else str(self._site.stand_in)
        keys = {**self._keys, "ISTIO_HOSTAGENT_ENVOY": binary}
        (self.directory / "etc" / "hostagent.env").write_text(keys_text(keys))
        log = agentlog.Log()
        argv = [cost.PYTHON, "-m", "istio_hostagent", "run"]
        self.began_ms, self.pid = self.namespace.inside(
            lambda: (cost.now_ms(), cost.spawn(argv, self.environment, output=log.write_end))
        )
        log.handed_over()
        self.agent_log = log

    def wait_for(self, text: str, *, since_ms: float = 0.0) -> float:
        """When the agent first said this, in ms after `since_ms`; raises NotMeasured."""
        began = since_ms or self.began_ms
        return self.log.wait_for(text, since_ms=began) - began

    def kill(self) -> float:
        """SIGKILL the agent; returns the CPU in ms that it and its ended children had used."""
        pid, self.pid = self.pid, 0
        return cost.kill(pid)

    def ask(self, verb: str) -> float:
        """Ask the agent, as the command line does, and return how long its answer took, in ms."""
        # Not through the product's own client: that looks for the agent of this process's
        # namespace, and a socket in the file system can be reached from any.
        path = os.path.join(control.DIRECTORY, f"{self.namespace.inode}.sock")
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
        self.namespace.close()
        super().close()


def children_of(pid: int) -> list[int]:
    """The processes that this one has started and that still run (proc(5))."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in found.split()]


def wait_for_end(pid: int) -> None:
    """Wait until a process that is not our child is gone; raises NotMeasured."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([descriptor], [], [], agentlog.PATIENCE_S)[0]:
            raise cost.NotMeasured(f"process {pid} did not end with its agent")
    finally:
        os.close(descriptor)
