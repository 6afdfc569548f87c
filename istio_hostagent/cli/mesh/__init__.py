"""Put hosts into a cluster's mesh: from a machine that reaches the cluster, without root."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ...host import libraries

USAGE_STATUS = 64


class Verb(NamedTuple):
    """One verb of `mesh`. `alias`: its name in setupMeshEx.sh; `module`: here, performs it."""

    name: str
    alias: str
    module: str
    line: str
    example: str

    @property
    def words(self) -> list[str]:
        """The name as it is typed."""
        return self.name.split()


VERBS = (
    Verb(
        "doctor",
        "",
        "doctor",
        "say whether hosts can join this cluster, and what to do if not",
        "doctor",
    ),
    Verb(
        "load-balancers",
        "meshExpansion",
        "load_balancers",
        "print or apply the Services by which hosts reach a classic control plane",
        "load-balancers --release 1.0 --apply",
    ),
    Verb(
        "cluster-env",
        "generateClusterEnv",
        "cluster_env",
        "write cluster.env of a classic mesh",
        "cluster-env",
    ),
    Verb("dnsmasq", "generateDnsmasq", "dnsmasq", "write kubedns for dnsmasq", "dnsmasq"),
    Verb(
        "certs",
        "machineCerts",
        "certs",
        "fetch the certificate files of a service account",
        "certs default vm all",
    ),
    Verb(
        "workload entry configure",
        "",
        "workload",
        "write the files of a host from a WorkloadGroup",
        "workload entry configure --name web --namespace vm --output web",
    ),
    Verb(
        "setup",
        "machineSetup",
        "setup",
        "install the package and the files on hosts, by ssh",
        "setup vm1 vm2 --group web --namespace vm",
    ),
    Verb(
        "gce-setup",
        "gceMachineSetup",
        "gce_setup",
        "the same by gcloud, with the root certificate alone",
        "gce-setup vm1",
    ),
)


def overview() -> str:
    """The text of `istio-hostagent mesh --help`."""
    lines = ["usage: istio-hostagent mesh VERB [options]", "", __doc__ or "", ""]
    lines += [f"  {verb.name:<25} {verb.line}" for verb in VERBS]
    aliases = ", ".join(f"{verb.alias} ({verb.name})" for verb in VERBS if verb.alias)
    lines += ["", f"Names of setupMeshEx.sh are known, too: {aliases}.", ""]
    lines.append(
        "istio-hostagent mesh VERB --help says more; istio-hostagent-mesh(8) is the manual."
    )
    return "\n".join(lines)


def find(words: Sequence[str]) -> tuple[Verb, list[str]] | None:
    """Return the verb that a command line begins with, and the words behind it."""
    for verb in VERBS:
        count = len(verb.words)
        if list(words[:count]) == verb.words:
            return verb, list(words[count:])
        if verb.alias and words[0] == verb.alias:
            return verb, list(words[1:])
    return None


def perform(words: Sequence[str]) -> int:
    """Perform the verb that these words begin with and return its exit status."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else USAGE_STATUS
    found = find(words)
    if found is None:
        print(f"istio-hostagent mesh: unknown verb {words[0]!r}; see --help", file=sys.stderr)
        return USAGE_STATUS
    verb, rest = found
    if sys.flags.no_site:
        libraries.add()
    module = importlib.import_module(f".{verb.module}", __package__)
    arguments = importlib.import_module(".arguments", __package__)
    values = arguments.parse(verb, module, rest, os.environ)
    return int(module.execute(values, os.environ))
