"""An agent beside others in one namespace, of an ordinary user who has no capability.

    with Instance(ns, "web", uid=61600, envoy=binary) as host:

Its directories are the user's, and so are all files below them. With uid 0 it is root's, with all
that root may do.
"""

import os
from pathlib import Path

from tests.lab import netns
from tests.lab.host import Host

# Nothing is left of root: no capability in any set, and no way to gain one.
POWERLESS = ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs")


class Instance(Host):
    """Its files and processes; `uid` is its group's number, too."""

    def __init__(self, namespace: netns.Namespace, name: str, *, uid: int, envoy: str) -> None:
        self.name, self.uid = name, uid
        super().__init__(namespace, envoy)
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *POWERLESS, "--"]
        self.wrapper = user if uid else []
        for place in (self.state, self.runtime):
            place.mkdir()
        self.certs = self.state / "instances" / name / "certificate"
        self.hostagent_env = self.hostagent_env.parent / name / "hostagent.env"
        self.hostagent_env.parent.mkdir()
        self.sidecar_env = self.hostagent_env.parent / "sidecar.env"
        self.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy)
        self.own()

    def own(self) -> None:
        """Give everything to its user; root's is as root has made it."""
        if not self.uid:
            return
        for directory, _, names in os.walk(self.directory):
            for path in (directory, *(f"{directory}/{name}" for name in names)):
                if not os.path.islink(path):
                    os.chown(path, self.uid, self.uid)

    @property
    def environment(self) -> dict[str, str]:
        """As for a host, with the name; where sidecar.env lies follows from that."""
        found = super().environment
        del found["ISTIO_SIDECAR_CONFIG"]
        # The directory of the name is below each of them.
        found["CONFIGURATION_DIRECTORY"] = str(self.hostagent_env.parent.parent)
        return found | {"ISTIO_HOSTAGENT_INSTANCE": self.name}

    def write_hostagent(self, **keys: str) -> None:
        """Write hostagent.env; the certificate goes where it goes by itself."""
        super().write_hostagent(**keys)
        text = self.hostagent_env.read_text()
        lines = [line for line in text.splitlines() if not line.startswith("OUTPUT_CERTS=")]
        self.hostagent_env.write_text("\n".join(lines) + "\n")
        os.chown(self.hostagent_env, self.uid, self.uid)

    def write_token(self, token: str) -> None:
        """Hand over a bootstrap token."""
        super().write_token(token)
        if self.uid:
            os.chown(self.token, self.uid, self.uid)

    def _replace(self, path: Path, text: str) -> None:
        super()._replace(path, text)
        os.chown(path, self.uid, self.uid)
