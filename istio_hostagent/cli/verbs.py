"""The verbs as data: name, group, one line, one example. Help and dispatch come from here."""

from typing import NamedTuple


class Verb(NamedTuple):
    """One row of the help. The module of the same name in this package performs it."""

    name: str
    group: str
    line: str
    example: str
    has_verbs: bool = False  # of its own: what follows is theirs


LOOK = "Look"
CHANGE = "Change"
PROVISION = "Provision"
SERVE = "Serve"

VERBS = (
    Verb("status", LOOK, "say whether this host is in the mesh, and if not why", "status --json"),
    Verb("wait", LOOK, "wait until this host is in the mesh", "wait --timeout 60"),
    Verb("config", LOOK, "print the configuration that the files make", "config --explain"),
    Verb(
        "cert",
        LOOK,
        "show the certificate of this host, or check files that are to be one",
        "cert --check /srv/svid",
    ),
    Verb("plan", LOOK, "show what apply would change", "plan"),
    Verb(
        "explain",
        LOOK,
        "say where a packet goes, and which rule decides",
        "explain tcp 10.0.0.5:443 --from-user app",
    ),
    Verb("verify", LOOK, "read the rules back and prove them with packets", "verify"),
    Verb("doctor", LOOK, "look at everything that a host in the mesh needs", "doctor"),
    Verb("apply", CHANGE, "install the rules of the configuration", "apply"),
    Verb("clean", CHANGE, "take our rules out", "clean"),
    Verb("reset", CHANGE, "remove what makes this machine one host, for an image", "reset --all"),
    Verb("reload", CHANGE, "make the agent read its files again", "reload"),
    Verb("renew", CHANGE, "make the agent obtain a new certificate now", "renew"),
    Verb(
        "kubedns",
        CHANGE,
        "let dnsmasq answer the names of the control plane (classic guides)",
        "kubedns --install kubedns",
    ),
    Verb(
        "mesh",
        PROVISION,
        "put hosts into a cluster's mesh, from a machine that reaches the cluster",
        "mesh --help",
        has_verbs=True,
    ),
    Verb(
        "register",
        PROVISION,
        "register a service with Consul or a cluster",
        "register web 10.0.0.7 http:8080 --check tcp",
    ),
    Verb(
        "deregister",
        PROVISION,
        "take a service out of the registry",
        "deregister web 10.0.0.7",
    ),
    Verb("run", SERVE, "be the agent of this host (started by systemd)", "run"),
)


def overview() -> str:
    """The text of `istio-hostagent --help`."""
    usage = "usage: istio-hostagent [--instance NAME] VERB [options]"
    lines = [usage, "", "Keeps this host in an Istio mesh.", ""]
    for group in (LOOK, CHANGE, PROVISION, SERVE):
        lines.append(f"{group}:")
        lines += [f"  {verb.name:<10} {verb.line}" for verb in VERBS if verb.group == group]
        lines.append("")
    lines.append("istio-hostagent VERB --help says more; istio-hostagent(8) is the manual.")
    return "\n".join(lines)
