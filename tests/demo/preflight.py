"""Is everything there that the demo needs? One line says what is missing and what to do."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from tests.lab import netns

PROGRAMS = {"ip": "iproute2", "setpriv": "util-linux", "nft": "nftables"}
MODULES = {
    "pyroute2": "python3-pyroute2",
    "cryptography": "python3-cryptography",
    "pycurl": "python3-pycurl",
    "watchdog": "python3-watchdog",
    "h2": "python3-h2",
}


def find_problem(envoy: Path | None) -> str:
    """Return what keeps the demo from running here, in one line; "" if nothing does."""
    if os.geteuid() != 0:
        return "network namespaces need root: run it as root, for example with sudo"
    packages = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
    packages += [
        package for name, package in MODULES.items() if importlib.util.find_spec(name) is None
    ]
    if packages:
        return f"missing packages: apt-get install {' '.join(packages)} (make demo does that)"
    if envoy is None:
        return "no Envoy named: give --envoy PATH (make demo does that)"
    if not envoy.is_file():
        return f"no Envoy at {envoy}: make demo installs one, or give --envoy PATH"
    if not os.access(envoy, os.X_OK):
        return f"{envoy} cannot be executed: chmod +x it, or give --envoy PATH"
    if problem := _try(envoy):
        return f"{envoy} is no Envoy that runs here ({problem}): give --envoy PATH"
    if problem := netns.missing():
        return f"{problem}; in a container, allow it CAP_SYS_ADMIN and CAP_NET_ADMIN"
    return ""


def _try(envoy: Path) -> str:
    """Return why this is no Envoy that works, "" if it is one."""
    argv = [str(envoy), "--version"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return f"exit status {done.returncode}{': ' if said else ''}{''.join(said[-1:])}"
    return "" if "version" in done.stdout else "it does not say its version"
