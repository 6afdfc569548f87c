"""The certificate worker beside a real SPIRE, by both of the ways in which its agent answers.

ISTIO_HOSTAGENT_TEST_SPIRE   directory of spire-server and spire-agent (nobody builds them)
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.identity import certificates
from tests.lab import layers, netns, waiting
from tests.lab.workers import NOBODY, run_worker

SPIRE = "ISTIO_HOSTAGENT_TEST_SPIRE"
DOMAIN = "example.org"
WEB, DB = (f"spiffe://{DOMAIN}/ns/vms/sa/{name}" for name in ("web", "db"))
SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = 8081
  socket_path = "{place}/server.sock"
  trust_domain = "{domain}"
  data_dir = "{place}/server"
  default_x509_svid_ttl = "1h"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{place}/db" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"""
AGENT = """
agent {{
  data_dir = "{place}/agent"
  server_address = "127.0.0.1"
  server_port = 8081
  socket_path = "{place}/agent.sock"
  trust_domain = "{domain}"
  insecure_bootstrap = true
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


class Spire:
    """A server and an agent of one trust domain, in a namespace of their own."""

    def __init__(self, programs: Path, place: Path) -> None:
        self._programs, self.place = programs, place
        self.socket = place / "agent.sock"

    @contextlib.contextmanager
    def run(self) -> Iterator["Spire"]:
        """While both run."""
        with netns.Network("spire", "10.79.0.1/24") as network, contextlib.ExitStack() as stack:
            for name, text in (("server", SERVER), ("agent", AGENT)):
                config = self.place / f"{name}.conf"
                config.write_text(text.format(place=self.place, domain=DOMAIN))
                more = []
                if name == "agent":
                    node = ("-spiffeID", f"spiffe://{DOMAIN}/node", "-output", "json")
                    made = json.loads(self.server("token", "generate", *node))
                    more = ["-joinToken", made["value"]]
                log = stack.enter_context((self.place / f"{name}.log").open("w"))
                words = [str(self._programs / f"spire-{name}"), "run", "-config", str(config)]
                process = network.popen([*words, *more], stdout=log, stderr=log)
                stack.callback(process.wait)
                stack.callback(process.kill)
                waiting.eventually((self.place / f"{name}.sock").exists, f"{name} runs")
            yield self

    def server(self, *words: str) -> str:
        """Run a command of the server's."""
        argv = [str(self._programs / "spire-server"), *words]
        argv += ["-socketPath", str(self.place / "server.sock")]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def register(self, identity: str) -> None:
        """Have this user's programs known by this name."""
        parent = ("-parentID", f"spiffe://{DOMAIN}/node")
        selector = ("-selector", f"unix:uid:{NOBODY}")
        self.server("entry", "create", *parent, "-spiffeID", identity, *selector)


@pytest.fixture
def spire() -> Iterator[Spire]:
    layers.require_namespaces()
    programs = Path(os.environ.get(SPIRE, ""))
    if not os.environ.get(SPIRE):
        pytest.skip(f"needs a real SPIRE: set {SPIRE} to the directory of its two programs")
    if not os.access(programs / "spire-agent", os.X_OK):
        pytest.fail(f"{SPIRE}={programs} has no program spire-agent", pytrace=False)
    # Not in /tmp, where any user may be the first to make a socket.
    place = Path(tempfile.mkdtemp(dir="/run"))
    place.chmod(0o755)
    try:
        for name in ("server", "agent", "shown", "store"):
            (place / name).mkdir()
        for name in ("shown", "store"):
            shutil.chown(place / name, NOBODY, NOBODY)
        with Spire(programs, place).run() as made:
            yield made
    finally:
        shutil.rmtree(place)


def ask(spire: Spire, *, is_workload_api: bool, identity: str = "") -> dict:  # type: ignore[type-arg]
    request = {
        "op": "ensure",
        "spiffe_id": identity or f"spiffe://{DOMAIN}/ns/default/sa/default",
        "named_parts": ["trust_domain", "namespace", "service_account"]
        if identity
        else ["trust_domain"],
        "output_dir": str(spire.place / "shown"),
        "store_dir": str(spire.place / "store"),
        "secret_source": str(spire.socket),
        "is_workload_api": is_workload_api,
        "timeout_s": 5.0,
    }
    answer = run_worker("certificate", request, user=NOBODY)
    assert isinstance(answer, dict)
    return answer


def is_held(spire: Spire, *, is_workload_api: bool, identity: str = "") -> bool:
    held = ask(spire, is_workload_api=is_workload_api, identity=identity).get("held")
    return held is not None and held["identity"] == (identity or WEB)


@pytest.mark.parametrize("is_workload_api", [True, False], ids=["workload-api", "sds"])
def test_the_identity_that_spire_gives_this_host_is_shown(
    spire: Spire, is_workload_api: bool
) -> None:
    error = ask(spire, is_workload_api=is_workload_api)["error"]
    assert error["code"] == "credential-missing"
    assert "no identity issued" in error["message"]
    spire.register(WEB)
    waiting.eventually(
        lambda: is_held(spire, is_workload_api=is_workload_api), "web is given", within_s=60
    )
    chain = certificates.parse_certificates((spire.place / "shown/cert-chain.pem").read_bytes())
    assert certificates.uri_names(chain[0]) == (WEB,)
    assert b"PRIVATE KEY" in (spire.place / "shown/key.pem").read_bytes()


def test_of_several_identities_the_configured_one_is_taken(spire: Spire) -> None:
    for each in (DB, WEB):
        spire.register(each)
    for each in (WEB, DB):
        given = functools.partial(is_held, spire, is_workload_api=True, identity=each)
        waiting.eventually(given, f"{each} is given", within_s=60)
