"""Let dnsmasq answer the names of the control plane, as the classic guides do with `kubedns`.

With a file, which `mesh generateDnsmasq` writes: it becomes /etc/dnsmasq.d/kubedns, the resolver
of this host is told to ask dnsmasq, and every name is looked up; if one has not its address, all
is as before. With --remove: all of that is undone, which the removal of the package does too.
Without either: what is in force, and whether each name is answered.

Exit status: 0 if every name is answered, 1 if not or if nothing is in force.
"""

import importlib
import os
from typing import Any

from ..errors import NotPermitted, WrongUsage, describe
from .options import Option, Values

OPTIONS = (
    Option("install", "the file with the names", "", "FILE"),
    Option("remove", "undo it"),
)


def execute(values: Values) -> int:
    """Do it and say what came of it."""
    if values["install"] and values["remove"]:
        raise WrongUsage("either --install or --remove")
    names: Any = importlib.import_module("..host.kubedns", __package__)
    if (values["install"] or values["remove"]) and os.geteuid():
        raise NotPermitted("this needs root")
    if values["remove"]:
        print("removed" if names.remove() else "nothing to remove: no kubedns is in force")
        return 0
    if values["install"]:
        return _say(names.install(_read(values["install"]), values["install"]))
    path = names.find_installed()
    if path is None:
        print("no kubedns is in force")
        return 1
    print(path)
    return _say(names.look(path))


def _read(path: str) -> str:
    files: Any = importlib.import_module("..host.files", __package__)
    try:
        return str(files.read_bounded(path).decode(errors="replace"))
    except OSError as error:
        raise NotPermitted(f"{path}: {describe(error)}") from error


def _say(state: Any) -> int:
    for entry, said in state.answers:
        if said is None:
            print(f"*.{entry.name}: asked for at {entry.address}, not tried")
        else:
            print(f"{entry.name}: {said or entry.address}")
    print(f"dnsmasq is asked through {_RESOLVERS[state.manager.name]}")
    return 1 if any(said for _, said in state.answers) else 0


_RESOLVERS = {
    "RESOLVED": "systemd-resolved",
    "NETWORK_MANAGER": "NetworkManager",
    "RESOLVCONF": "resolvconf",
    "DHCLIENT": "/etc/resolv.conf, which dhclient writes",
    "NOBODY": "/etc/resolv.conf",
}
