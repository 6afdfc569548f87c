"""A host takes its certificate from the secret server of a real pilot-agent, and asks no CA.

That pilot-agent has its own from a real istiod, and stands for any agent that has a workload's
certificate on a host. Its Envoy serves nobody: it is in the namespace of istiod.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.demo import evidence
from tests.lab import netns
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually

from . import authority as authorities
from . import istiod as istiods
from .conftest import JOIN_LIMIT_S, Programs
from .istiod import Istiod

LIFE = "80s"


@dataclass
class Other:
    """A pilot-agent by itself, in the namespace of istiod: its socket is a file."""

    istiod: Istiod
    programs: Programs
    directory: Path
    process: subprocess.Popen[str] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "var/run/secrets/workload-spiffe-uds/socket"

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def write(self) -> None:
        """Its files, as they are on a virtual machine of Istio's."""
        for path, text in (
            ("etc/certs/root-cert.pem", self.istiod.authority.root_bundle.decode()),
            ("var/run/secrets/tokens/istio-token", self.istiod.authority.token()),
            ("etc/istio/proxy/there", ""),
        ):
            (self.directory / path).parent.mkdir(parents=True)
            (self.directory / path).write_text(text)
        uid, gid = proxy_user()
        subprocess.run(["chown", "-R", f"{uid}:{gid}", self.directory], check=True)

    def start(self) -> None:
        uid, gid = proxy_user()
        address = f"{istiods.NAME}:{istiods.PORT}"
        self.istiod.network.write_hosts({istiods.NAME: istiods.ADDRESS})
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/",
            "INSTANCE_IP": istiods.ADDRESS,
            "POD_NAME": "other",
            "POD_NAMESPACE": authorities.NAMESPACE,
            "SERVICE_ACCOUNT": authorities.SERVICE_ACCOUNT,
            "TRUST_DOMAIN": authorities.TRUST_DOMAIN,
            "ISTIO_META_CLUSTER_ID": istiods.CLUSTER_ID,
            "PROV_CERT": "./etc/certs",
            "OUTPUT_CERTS": "./etc/certs",
            "CA_ADDR": address,
            # Without an Envoy of its own it serves no secrets.
            "PROXY_CONFIG": json.dumps(
                {
                    "discoveryAddress": address,
                    "binaryPath": str(self.programs.envoy),
                    "proxyBootstrapTemplatePath": str(self.programs.bootstrap),
                }
            ),
            "CLOUD_PLATFORM": "none",
            "ECC_SIGNATURE_ALGORITHM": "ECDSA",
            "SECRET_TTL": LIFE,
        }
        user = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        settings = [f"{key}={value}" for key, value in environment.items()]
        program = [str(self.programs.directory / "pilot-agent"), "proxy", "sidecar"]
        with (self.directory / "log").open("a") as log:
            self.process = self.istiod.network.popen(
                ["setpriv", *user, "env", "-i", *settings, *program],
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        eventually(self.socket.is_socket, "its socket is there")

    def stop(self) -> None:
        if self.process is not None:
            netns.end([self.process])
            self.process = None


@pytest.fixture
def other(host: Host, istiod: Istiod, programs: Programs) -> Iterator[Other]:
    """Not started; the files of `host` name its socket, and no token or root of a CA."""
    made = Other(istiod, programs, host.directory / "other")
    made.directory.mkdir()
    made.write()
    host.token.unlink()
    host.root.unlink()
    host.cluster_env.write_text(
        f"{host.cluster_env.read_text()}WORKLOAD_IDENTITY_SOCKET_FILE={made.socket}\n".replace(
            "CA_ADDR=", "PILOT_ADDRESS="
        )
    )
    yield made
    made.stop()
    print(f"--- the end of the other agent's log\n{made.log[-3000:]}")


def serial(host: Host) -> str:
    return str(host.status()["certificate"]["serial"])


def test_it_joins_and_follows_the_renewals_of_the_other_agent(host: Host, other: Other) -> None:
    other.start()
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    first = host.status()["certificate"]
    assert first["identity"] == authorities.IDENTITY
    assert first["renewed_by"] == f"the secret server at {other.socket}"
    assert first["credentials"] == []
    eventually(
        lambda: evidence.held_serials(host) == {int(serial(host), 16)}, "Envoy shows what is held"
    )
    # It renews with half of the life left; a tenth of the rest later it is here.
    eventually(lambda: serial(host) != first["serial"], "the next one", within_s=120)
    eventually(
        lambda: evidence.held_serials(host) == {int(serial(host), 16)}, "Envoy shows the next one"
    )
    eventually(lambda: bool(host.status()["in_mesh"]), "in the mesh")
    assert "no token" not in host.log_text()


def test_it_waits_for_the_other_agent_and_outlives_it(host: Host, other: Other) -> None:
    host.start()
    missing = f"the secret server at {other.socket}: {other.socket} does not exist"
    eventually(lambda: missing in host.log_text(), "what is missing is named")
    assert missing in host.status()["summary"]
    other.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    held = serial(host)
    other.stop()
    host.verb("renew", is_checked=False)
    status = host.status()
    assert status["certificate"]["serial"] == held
    assert f"the secret server at {other.socket}" in status["certificate"]["last_error"]
    eventually(lambda: bool(host.status()["in_mesh"]), "in the mesh")
