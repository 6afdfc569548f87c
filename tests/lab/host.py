"""One host of the laboratory: an agent of this checkout in a namespace, with files of its own.

    with Namespace("a") as ns, Host(ns, envoy=binary) as host:
        host.write_cluster(CA_ADDR="10.9.0.1:15012", ISTIO_SERVICE_CIDR="10.9.0.0/24")
        host.start()
        host.verb("wait", "--timeout", "10")

The agent runs as `/usr/bin/python3 -m istio_hostagent run` does for anybody. Its directories lie
below /tmp, open to the proxy's user, who is the uid that the product falls back to where no user
istio-proxy exists.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from istio_hostagent.host import sharedmemory
from tests.lab import netns
from tests.lab.manager import Manager

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
CONTROL = Path("/run/istio-hostagent")
VERB_TIME_S = 150.0


def proxy_user() -> tuple[int, int]:
    """Uid and gid of the proxy on this machine, as the product finds them."""
    try:
        entry = pwd.getpwnam("istio-proxy")
    except KeyError:
        return 1337, 1337
    return entry.pw_uid, entry.pw_gid


class Host:
    """An agent's files and processes. A context manager: leaving it ends and removes everything."""

    def __init__(
        self, namespace: netns.Namespace, envoy: str = "", *, directory: Path | None = None
    ) -> None:
        """`envoy`: path of a binary that the proxy's user may run; empty: none is configured.

        `directory`: where its files go, made here; None: a new one below /tmp.
        """
        self.namespace = namespace
        if directory is None:
            directory = Path(tempfile.mkdtemp(prefix=f"hatest-{namespace.label}-"))
        else:
            directory.mkdir()
        self.directory = directory
        self.directory.chmod(0o755)
        self.agent: subprocess.Popen[str] | None = None
        # Whether the agent has process numbers of its own, like in a container.
        self.has_pid_namespace = False
        # What runs its agent and its verbs, as words in front of their command lines.
        self.wrapper: list[str] = []
        # Who keeps its descriptors; None: nobody.
        self.manager: Manager | None = None
        # Where the agent's package lies.
        self.checkout = CHECKOUT
        self.cluster_env = self.directory / "cluster.env"
        self.sidecar_env = self.directory / "sidecar.env"
        self.hostagent_env = self.directory / "etc" / "hostagent.env"
        self.state = self.directory / "state"
        self.runtime = self.directory / "run"
        self.certs = self.directory / "certs"
        self.token = self.directory / "token"
        self.root = self.directory / "root-cert.pem"
        self.log = self.directory / "agent.log"
        self.hostagent_env.parent.mkdir()
        self.certs.mkdir()
        os.chown(self.certs, *proxy_user())
        self.write_hostagent(**({"ISTIO_HOSTAGENT_ENVOY": envoy} if envoy else {}))

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the agent and remove its files, those that a killed one leaves in /run too."""
        self.kill()
        if self.namespace.path.exists():
            place = f"{self.runtime}/{self.namespace.inode}.proxy"
            base_id = sharedmemory.find_base_id(place, proxy_user()[0])
            Path(sharedmemory.path_of(base_id)).unlink(missing_ok=True)
            for path in CONTROL.glob(f"{self.namespace.inode}.*"):
                path.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def proxy_name(self) -> str:
        """The name by which messages call the proxy's user."""
        uid, _ = proxy_user()
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    # -- its files ------------------------------------------------------------------------------

    def write_hostagent(self, **keys: str) -> None:
        """Write hostagent.env: what every test needs, and these keys."""
        settings = {
            "ISTIO_HOSTAGENT_PROXY": "envoy",
            "OUTPUT_CERTS": str(self.certs),
            "ISTIO_HOSTAGENT_TOKEN_FILE": str(self.token),
            "CA_ROOT_CA": str(self.root),
            # Else a second change waits for the better part of a minute.
            "ISTIO_HOSTAGENT_RESTART_DRAIN": "1s",
            "ISTIO_HOSTAGENT_DRAIN": "0s",
            **keys,
        }
        self.hostagent_env.write_text(_lines(settings))

    def write_cluster(self, **keys: str) -> None:
        """Write cluster.env as a whole, by a rename as configuration tools do."""
        self._replace(self.cluster_env, _lines(keys))

    def write_sidecar(self, text: str) -> None:
        """Write sidecar.env as a whole, by a rename."""
        self._replace(self.sidecar_env, text)

    def write_token(self, token: str) -> None:
        """Hand over a bootstrap token, to the proxy's user alone."""
        self._replace(self.token, token)
        os.chown(self.token, *proxy_user())
        self.token.chmod(0o600)

    def _replace(self, path: Path, text: str) -> None:
        new = path.with_suffix(".tmp")
        new.write_text(text)
        new.rename(path)

    # -- its agent ------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What tells the product where its files lie."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(self.checkout),
            "ISTIO_CLUSTER_CONFIG": str(self.cluster_env),
            "ISTIO_SIDECAR_CONFIG": str(self.sidecar_env),
            "CONFIGURATION_DIRECTORY": str(self.hostagent_env.parent),
            "STATE_DIRECTORY": str(self.state),
            "RUNTIME_DIRECTORY": str(self.runtime),
        }

    def start(self) -> None:
        """Start the agent; it is there at once, ready later."""
        container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        prefix = container if self.has_pid_namespace else []
        command = [PYTHON, "-m", "istio_hostagent", "run"]
        environment = self.environment
        descriptors: tuple[int, ...] = ()
        if self.manager is not None:
            command, told, descriptors = self.manager.hand_over(command, PYTHON)
            environment |= told
        with open(self.log, "a") as log:
            self.agent = subprocess.Popen(
                self.namespace.argv([*self.wrapper, *prefix, *command]),
                env=environment,
                pass_fds=descriptors,
                cwd=self.checkout,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def stop(self, sign: int = signal.SIGTERM) -> int:
        """Send the agent a signal and return its exit status once it is gone."""
        assert self.agent is not None
        self.agent.send_signal(sign)
        status = self.agent.wait(60)
        self.agent = None
        return status

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(60)
            self.agent = None

    def verb(self, *words: str, is_checked: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one verb on this host; `is_checked`: a status other than 0 is an error."""
        done = subprocess.run(
            self.namespace.argv([*self.wrapper, PYTHON, "-m", "istio_hostagent", *words]),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERB_TIME_S,
            check=False,
        )
        if is_checked and done.returncode:
            raise AssertionError(f"{words}: {done.stdout}{done.stderr}\n{self.log_text()}")
        return done

    def status(self) -> dict[str, Any]:
        """The report of the running agent."""
        done = self.verb("status", "--json", is_checked=False)
        return dict(json.loads(done.stdout))

    def log_text(self) -> str:
        """What the agent has said so far."""
        return self.log.read_text() if self.log.exists() else ""

    def tables(self) -> set[str]:
        """The names of the nf_tables tables in this host's namespace.

        While an agent runs, the tables of its proofs are left out: they come and go.
        """
        listing = self.namespace.run(["nft", "list", "tables"]).stdout
        names = {line.split()[-1] for line in listing.splitlines()}
        if self.agent is None:
            return names
        return {name for name in names if not name.startswith("istio_hostagent_probe_")}


def _lines(keys: dict[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in keys.items())
