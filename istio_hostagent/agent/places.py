"""Where files lie: the agent's own, and those of the operator. Light: every verb needs it."""

import os
from collections.abc import Mapping
from typing import NamedTuple

# In the state directory: this host is joined; an attempt to join is under way; the guard's text;
# the address by which the mesh knows this host.
MARKER = "joined"
ATTEMPT = "joining"
GUARD = "guard.nft"
ADDRESS = "address"
# ... what was written for other programs, and of which certificate they were told last.
OUTPUTS = "outputs"
TOLD = "told"
# ... what this host may have in a registry of services.
REGISTERED = "registered"
# ... where services are, by the catalogue, one address a line.
CATALOGUE = "catalogue"
# ... a directory of istio-proxy's: the names of the mesh that its resolver was told last.
NAMES = "names"
HOSTAGENT_FILE = "hostagent.env"
CLUSTER_FILE = "/var/lib/istio/envoy/cluster.env"
SIDECAR_FILE = "/var/lib/istio/envoy/sidecar.env"
# Whom this host asks for names, and whose queries are those of its own resolvers.
FILES_OF_NAMES = ("/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/passwd")


def find_session_ports(environment: Mapping[str, str]) -> tuple[int, ...]:
    """The port at which this session has come in, if sshd says so (SSH_CONNECTION of ssh(1))."""
    parts = environment.get("SSH_CONNECTION", "").split()
    port = parts[3] if len(parts) == 4 else ""
    return (int(port),) if port.isascii() and port.isdigit() and len(port) < 6 else ()


class Sources(NamedTuple):
    """Where the files lie, in order of rising precedence."""

    hostagent: str
    cluster: str
    sidecar: str

    @property
    def paths(self) -> tuple[str, str, str]:
        """All three."""
        return (self.hostagent, self.cluster, self.sidecar)


def find_sources(environment: Mapping[str, str], config_dir: str, instance: str = "") -> Sources:
    """Apply ISTIO_CLUSTER_CONFIG and ISTIO_SIDECAR_CONFIG, as Istio's start script does.

    Of an agent beside others the last file lies beside the first: the machine's is not its own.
    """
    sidecar = SIDECAR_FILE
    if instance:
        sidecar = os.path.join(config_dir, os.path.basename(SIDECAR_FILE))
    return Sources(
        hostagent=os.path.join(config_dir, HOSTAGENT_FILE),
        cluster=os.path.abspath(environment.get("ISTIO_CLUSTER_CONFIG") or CLUSTER_FILE),
        sidecar=os.path.abspath(environment.get("ISTIO_SIDECAR_CONFIG") or sidecar),
    )
