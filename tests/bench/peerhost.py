"""The peer of a whole host: rules by istio-iptables, and a pilot-agent with its Envoy.

It is tuned as far as its settings go: an EC key, no question to the metadata services of clouds. It
asks the CA itself and writes the certificate down, as on a virtual machine.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.interop import authority as authorities
from tests.interop import istiod as istiods
from tests.lab.host import proxy_user

from . import cost, istio, readiness, site

_CERTIFICATES = "./etc/certs"
_TREE = (_CERTIFICATES, "./etc/istio/proxy", "./etc/istio/config", "./var/run/secrets/tokens")


class PeerHost:
    """A host that has what pilot-agent needs; nothing runs yet. A context manager."""

    def __init__(
        self, here: site.Site, authority: site.Authority, programs: istio.Programs
    ) -> None:
        self._programs = programs
        self._pid = 0
        self._said = cost.Said()
        self.began_ms = 0.0
        self.rules = cost.Cost(0.0, 0.0)
        self.directory = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/var/tmp"))
        try:
            for name in _TREE:
                (self.directory / name).mkdir(parents=True)
            (self.directory / _CERTIFICATES / "root-cert.pem").write_bytes(authority.root)
            token = self.directory / "var/run/secrets/tokens/istio-token"
            token.write_text(authority.make_token())
            for path in (self.directory, *self.directory.rglob("*")):
                shutil.chown(path, *proxy_user())
            self.place = here.place(authority)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._pid:
            self.kill()
        self.place.close()
        self._said.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, envoy: Path, rules: Sequence[list[str]]) -> None:
        """Run the commands for the rules, then start pilot-agent; its time begins with the first."""
        self.began_ms = cost.now_ms()
        taken = [self.place.run(argv) for argv in rules]
        self.rules = cost.Cost(
            sum(each.wall_ms for each in taken), sum(each.cpu_ms for each in taken)
        )
        uid, gid = proxy_user()
        user = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        argv = [cost.SETPRIV, *user, "--", str(self._programs.pilot_agent), "proxy", "sidecar"]
        environment = self._environment(envoy)
        _, self._pid = self.place.spawn(
            argv, environment, directory=str(self.directory), output=self._said.descriptor
        )

    @property
    def pid(self) -> int:
        """Of pilot-agent."""
        return self._pid

    def wait_for_certificate(self) -> float:
        """How long after the start the certificate lay there, in ms; raises NotMeasured."""
        chain = self.directory / _CERTIFICATES / "cert-chain.pem"
        at = readiness.wait_until(chain.exists, "pilot-agent has its certificate", self._said)
        return at - self.began_ms

    def wait_ready(self) -> float:
        """How long after the start it was ready, in ms; raises NotMeasured."""
        return readiness.wait_ready(self.place, self._said) - self.began_ms

    def kill(self) -> float:
        """SIGKILL pilot-agent; returns the CPU in ms of the rules and it, without its Envoy's."""
        pid, self._pid = self._pid, 0
        return self.rules.cpu_ms + cost.kill(pid)

    def _environment(self, envoy: Path) -> dict[str, str]:
        address = f"{istiods.NAME}:{istiods.PORT}"
        return {
            "PATH": cost.ENVIRONMENT["PATH"],
            "HOME": str(self.directory),
            "CLOUD_PLATFORM": "none",
            "ECC_SIGNATURE_ALGORITHM": "ECDSA",
            "CA_ADDR": address,
            "PROV_CERT": _CERTIFICATES,
            "OUTPUT_CERTS": _CERTIFICATES,
            "INSTANCE_IP": self.place.address,
            "POD_NAME": self.place.namespace.label,
            "POD_NAMESPACE": authorities.NAMESPACE,
            "SERVICE_ACCOUNT": authorities.SERVICE_ACCOUNT,
            "TRUST_DOMAIN": authorities.TRUST_DOMAIN,
            "ISTIO_META_CLUSTER_ID": istiods.CLUSTER_ID,
            "ISTIO_BOOTSTRAP": str(self._programs.bootstrap),
            # JSON is YAML. As many threads as our Envoy has.
            "PROXY_CONFIG": json.dumps(
                {"discoveryAddress": address, "binaryPath": str(envoy), "concurrency": 2}
            ),
        }
