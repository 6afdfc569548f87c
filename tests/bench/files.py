"""One host's files, laid out as the package does, and the environment that points to them.

hostagent.env lies where only root can write, cluster.env in a directory of istio-proxy, the state
on a disk that has to sync, the runtime directory in memory.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from tests.lab.host import CHECKOUT, proxy_user

from . import cost

# The standard configuration: two service networks with an exception, all inbound ports but one.
STANDARD = {
    "ISTIO_SERVICE_CIDR": "10.96.0.0/12,172.20.0.0/16",
    "ISTIO_SERVICE_EXCLUDE_CIDR": "10.96.0.10/32",
    "ISTIO_INBOUND_PORTS": "*",
    "ISTIO_LOCAL_EXCLUDE_PORTS": "9100",
}
# The same with another exception.
CHANGED = {**STANDARD, "ISTIO_SERVICE_EXCLUDE_CIDR": "10.96.0.20/32"}
LARGE_COUNT, LARGEST_COUNT = 10_000, 100_000
# One that is none of those, and touches none.
ANOTHER_CIDR = "192.168.7.0/24"


def large_cidrs(count: int = LARGE_COUNT) -> Iterator[str]:
    """Networks of which no two touch, so that none can be merged."""
    for number in range(count):
        block, rest = divmod(number, 32768)
        yield f"{10 + block}.{rest // 128}.{rest % 128 * 2}.0/24"


def large(count: int = LARGE_COUNT) -> dict[str, str]:
    """The standard configuration with very many service networks."""
    return {**STANDARD, "ISTIO_SERVICE_CIDR": ",".join(large_cidrs(count))}


def keys_text(keys: Mapping[str, str]) -> str:
    """The text of an environment file."""
    return "".join(f"{key}={value}\n" for key, value in keys.items())


def unit_environment() -> dict[str, str]:
    """What the unit gives the agent; not FDSTORE: there is no service manager."""
    unit = (CHECKOUT / "systemd" / "istio-hostagent.service").read_text()
    lines = [
        line.partition("=")[2] for line in unit.splitlines() if line.startswith("Environment=")
    ]
    pairs = [word.partition("=")[::2] for line in lines for word in line.split()]
    return {name: value for name, value in pairs if name != "FDSTORE"}


class Files:
    """One host's files. A context manager."""

    def __init__(self, keys: Mapping[str, str], *, is_root_only: bool = False) -> None:
        """`keys`: cluster.env, in a directory of istio-proxy unless `is_root_only`; none: no file."""
        self.directory = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/var/tmp"))
        self.runtime = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/run"))
        for each in (self.directory, self.runtime):
            each.chmod(0o755)
        for name in ("etc", "istio", "state", "certs"):
            (self.directory / name).mkdir()
        # The command as the package installs it, with this checkout for the package.
        self.program = str(self.directory / "istio-hostagent")
        installed = (CHECKOUT / "systemd" / "istio-hostagent").read_text()
        Path(self.program).write_text(
            installed.replace("/usr/share/istio-hostagent", str(CHECKOUT))
        )
        Path(self.program).chmod(0o755)
        self._owner = (0, 0) if is_root_only else proxy_user()
        os.chown(self.directory / "istio", *self._owner)
        os.chown(self.directory / "certs", *proxy_user())
        self.cluster_env = self.directory / "istio" / "cluster.env"
        if keys:
            self.write_cluster(keys)
        self.environment = {
            **cost.ENVIRONMENT,
            "ISTIO_CLUSTER_CONFIG": str(self.cluster_env),
            "ISTIO_SIDECAR_CONFIG": str(self.directory / "istio" / "sidecar.env"),
            "CONFIGURATION_DIRECTORY": str(self.directory / "etc"),
            "STATE_DIRECTORY": str(self.directory / "state"),
            "RUNTIME_DIRECTORY": str(self.runtime),
        }

    def write_cluster(self, keys: Mapping[str, str]) -> None:
        """Write cluster.env as a whole."""
        self.cluster_env.write_text(keys_text(keys))
        os.chown(self.cluster_env, *self._owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.runtime, ignore_errors=True)
