"""The site of the measurements: a cluster's namespace with those who certify hosts.

The demo authority is always there; a real istiod, which answers at another address of the same
name, once somebody has its programs.
"""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.demo import ca
from tests.interop import authority as authorities
from tests.interop import istiod as istiods
from tests.lab import netns
from tests.lab.host import CHECKOUT

from . import cost, istio, place

CLUSTER, CLUSTER_6 = "10.99.0.1", "fd99::1"

_STAND_IN = """\
#!/bin/sh
# Stands for Envoy where its CPU must not count: finds every bootstrap good, then serves nobody.
case " $* " in *" validate "*) exit 0 ;; esac
exec /bin/sleep 600
"""


@dataclass(frozen=True)
class Authority:
    """Who certifies hosts, as istiods.NAME:istiods.PORT at this address."""

    address: str
    root: bytes
    make_token: Callable[[], str]


class Site(contextlib.ExitStack):
    """A cluster; hosts are plugged in one after another. A context manager."""

    def __init__(self, envoy: str) -> None:
        """`envoy`: the binary that is used."""
        super().__init__()
        self._count = 1
        self.directory = Path(tempfile.mkdtemp(prefix="hatest-bench-", dir="/var/tmp"))
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.directory.chmod(0o755)
        # A copy: a checkout may lie below /root, and nobody else shares its memory.
        self.envoy = self._copy(envoy)
        self.stand_in = self.directory / "stand-in"
        self.stand_in.write_text(_STAND_IN)
        self.stand_in.chmod(0o755)
        try:
            addresses = (f"{CLUSTER}/24", f"{CLUSTER_6}/64", f"{istiods.ADDRESS}/24")
            self.cluster = self.enter_context(netns.Network("cluster", *addresses))
            self.demo = self._start_demo()
        except BaseException:
            self.close()
            raise

    def _copy(self, program: str | Path) -> Path:
        copy = self.directory / Path(program).name
        shutil.copyfile(program, copy)
        copy.chmod(0o755)
        return copy

    def _start_demo(self) -> Authority:
        directory = self.directory / "ca"
        authority = ca.DemoAuthority.create(directory)
        listen = ["--listen", f"{CLUSTER}:{istiods.PORT}", "--log", str(self.directory / "ca.log")]
        argv = [netns.PYTHON, "-m", "tests.demo.ca", "serve", "--dir", str(directory), *listen]
        server = self.cluster.popen(argv, stdout=subprocess.PIPE, cwd=CHECKOUT)
        assert server.stdout is not None
        if not server.stdout.readline().startswith("listening"):
            raise cost.NotMeasured("the demo authority did not start")
        return Authority(
            CLUSTER,
            authority.root_file.read_bytes(),
            lambda: authority.token(authorities.SUBJECT),
        )

    def start_istiod(self, programs: istio.Programs) -> tuple[Authority, istio.Programs]:
        """Start the control plane; returns it, and the programs where a proxy's user can run them.

        Raises LabError.
        """
        authority = authorities.Authority.create()
        directory = self.directory / "istiod"
        directory.mkdir()
        self.enter_context(
            istiods.Istiod(programs.pilot_discovery, self.cluster, directory, authority)
        )
        copied = istio.Programs(
            pilot_discovery=programs.pilot_discovery,
            pilot_agent=self._copy(programs.pilot_agent),
            bootstrap=self._copy(programs.bootstrap),
        )
        return Authority(istiods.ADDRESS, authority.root_bundle, authority.token), copied

    def place(self, authority: Authority) -> place.Place:
        """A fresh place whose control plane is this one."""
        self._count += 1
        return place.Place(self.cluster, self._count, {istiods.NAME: authority.address})
