"""The stage of the demo: a cluster and two hosts in network namespaces, and everything in them.

Nothing of it touches the machine's own network. All files lie in one directory below /tmp, which
the proxy's user may enter. Whatever is made is written down before it is made, so `close` takes
away all of it at any time.
"""

import contextlib
import os
import select
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.demo import ca_material, ca_token, clearing, interruption, journal
from tests.lab import host, netns, servers

CA = "10.77.0.1"
CA_PORT = 15012
NETWORK = "10.77.0.0/24"
ADDRESSES = {"a": "10.77.0.11", "b": "10.77.0.12"}
PORT, LATER_PORT = 8080, 9090
TRUST_DOMAIN = "cluster.local"
SERVICES = "demo"  # the namespace of the hosts' service accounts
USER = "nobody"
START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Member:
    """One of the two hosts: where it is, its agent's files, its application, its wire."""

    label: str
    address: str
    namespace: netns.Namespace
    host: host.Host
    app: servers.Server
    port: str  # the cluster's end of its cable

    @property
    def spiffe_id(self) -> str:
        """The identity that its certificate must carry."""
        return f"spiffe://{TRUST_DOMAIN}/ns/{SERVICES}/sa/{self.label}"


class Stage:
    """Everything that the demo makes. A context manager: leaving it takes all away, or keeps it."""

    def __init__(
        self, envoy: Path, interrupted: interruption.Interruption, *, is_kept: bool
    ) -> None:
        """`envoy`: the binary; it is linked or copied to where its user may run it.

        Nothing is made yet: what `prepare` and the others make, leaving takes away.
        """
        # The lab sweeps what its own prefix names when the maker is gone: neither what is to stay,
        # nor what the next demo recognises by its namespaces.
        prefix = clearing.PREFIX
        self._interrupted = interrupted
        self._envoy = envoy
        self._stack = contextlib.ExitStack()
        self._wants_keeping = is_kept
        self.is_kept = False
        self.cluster = netns.Network("cluster", f"{CA}/24", prefix=prefix)
        self._spaces = {label: netns.Namespace(label, prefix=prefix) for label in ADDRESSES}
        self.directory = clearing.PARENT
        self.journal = journal.Journal()
        self._material: ca_material.Material | None = None
        self.members: dict[str, Member] = {}

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_exc: object) -> None:
        if not self.is_kept:
            self.close()

    def close(self) -> None:
        """End every process and remove every namespace and file; nothing interrupts it."""
        self._interrupted.ignore()
        self._stack.close()

    def keep(self) -> None:
        """Leave everything as it is when the stage is left."""
        self.is_kept = True

    # -- making it ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The directory, the record of what will be there, and the Envoy that everybody may run."""
        with self._interrupted.held():
            name = f"{clearing.PREFIX}-{os.getpid()}-"
            self.directory = Path(tempfile.mkdtemp(prefix=name, dir=clearing.PARENT))
            self._stack.callback(self._remove)
            self._stack.enter_context(self.journal)
        self.directory.chmod(0o755)
        names = [space.name for space in (self.cluster, *self._spaces.values())]
        clearing.record(self.directory, names, is_kept=self._wants_keeping)
        with contextlib.suppress(OSError):
            if stat.S_IMODE(self._envoy.stat().st_mode) & 0o005 == 0o005:
                os.link(self._envoy.resolve(), self.envoy)
                return
        shutil.copy(self._envoy, self.envoy)
        self.envoy.chmod(0o755)

    @property
    def envoy(self) -> Path:
        """The binary that the agents start."""
        return self.directory / "envoy"

    def start_cluster(self) -> None:
        """Make the network and start the certificate authority on it, a process of its own."""
        with self._interrupted.held():
            self.cluster.__enter__()
        directory = self.directory / "ca"
        self._material = ca_material.create(directory, TRUST_DOMAIN, names=[CA])
        argv = [netns.PYTHON, "-m", "tests.demo.ca", "serve", "--dir", str(directory)]
        argv += ["--listen", f"{CA}:{CA_PORT}", "--log", str(self.directory / "ca.log")]
        with self._interrupted.held(), open(self.directory / "ca.err", "w") as errors:
            authority = self.cluster.popen(
                argv, stdout=subprocess.PIPE, stderr=errors, cwd=host.CHECKOUT
            )
        assert authority.stdout is not None
        ready, _, _ = select.select([authority.stdout], [], [], START_LIMIT_S)
        if not ready or not authority.stdout.readline():
            said = (self.directory / "ca.err").read_text().strip().splitlines()
            raise netns.LabError(f"the certificate authority did not start: {said[-1:]}")

    def add_member(self, label: str, ports: Sequence[int]) -> Member:
        """Make a host with an application on these ports; its agent does not run yet."""
        assert self._material is not None
        space, address = self._spaces[label], ADDRESSES[label]
        with self._interrupted.held():
            space.__enter__()
            port = self.cluster.join(space, f"{address}/24")
            space.ip("route", "add", "default", "via", CA)
            made = host.Host(space, str(self.envoy), directory=self.directory / label)
            app = servers.Server(
                space,
                servers.Kind.HTTP,
                "0.0.0.0",
                ports[0],
                user=USER,
                also=[("0.0.0.0", each) for each in ports[1:]],
                name=f"the application on {label}",
            )
            app.__enter__()
        made.root.write_bytes(self._material.root_bundle)
        token = ca_token.mint(
            self._material.token_key,
            f"system:serviceaccount:{SERVICES}:{label}",
            now=time.time(),
            ttl_s=3600.0,
        )
        made.write_token(token)
        made.write_hostagent(
            ISTIO_HOSTAGENT_ENVOY=str(self.envoy), ISTIO_HOSTAGENT_ACCESS_LOG="true"
        )
        self.journal.follow(label, made.log)
        self.members[label] = Member(label, address, space, made, app, port)
        return self.members[label]

    def start_agent(self, member: Member) -> float:
        """Start the product on this host; return when (monotonic seconds)."""
        with self._interrupted.held():
            began = time.monotonic()
            member.host.start()
        return began

    # -- taking it away -------------------------------------------------------------------------

    def _remove(self) -> None:
        spaces = [*self._spaces.values(), self.cluster]
        for member in self.members.values():
            member.host.kill()
        clearing.remove(self.directory, [space.name for space in spaces])
        for space in spaces:
            space.close()
        for member in self.members.values():
            member.app.__exit__(None, None, None)
