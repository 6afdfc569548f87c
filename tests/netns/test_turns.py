"""Nothing keeps the deciding thread from its next turn: not a file system, a process, or a caller.

A file system that never answers stands for all that do not (`tests/lab/hanging`); what a turn then
must not wait for is shown by an answer of `status`, which comes from the same thread.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import procstate
from tests.lab import hanging, layers
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import CAPTURING, MakeHost, configure, join, stand_in
from tests.netns.test_agent import TABLES
from tests.netns.test_hostile import rules, summary

pytestmark = pytest.mark.envoy


@pytest.fixture(autouse=True)
def _fuse() -> None:
    layers.require("netns", hanging.missing())


@contextlib.contextmanager
def hanging_below(host: Host) -> Iterator[Path]:
    """A directory of istio-proxy, and in it one whose file system never answers."""
    theirs = host.directory / "theirs"
    mount = theirs / "mount"
    mount.mkdir(parents=True)
    os.chown(theirs, *proxy_user())
    with hanging.HangingMount(mount):
        yield mount


def place_files(host: Host) -> Path:
    """Let the files lie where istio-proxy may change them, as Istio's packages have it."""
    theirs = host.directory / "istio"
    theirs.mkdir()
    os.chown(theirs, *proxy_user())
    host.cluster_env, host.sidecar_env = theirs / "cluster.env", theirs / "sidecar.env"
    return theirs


def lead_to(path: Path, target: Path) -> None:
    """Replace a file by a link, as a configuration tool would by another file."""
    link = path.with_suffix(".link")
    link.symlink_to(target)
    link.rename(path)


class TestEnvironmentFiles:
    def test_one_that_hangs_keeps_nobody_waiting_and_takes_nothing_away(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        place_files(host)
        with hanging_below(host) as mount:
            join(host)
            lead_to(host.sidecar_env, mount / "sidecar.env")
            done = host.verb("reload", is_checked=False)
            assert done.returncode == 75
            assert f"{host.cluster_env}: cannot be read, or another file" in done.stderr
            assert host.status()["in_mesh"]
            assert host.status()["configuration"]["state"] == "kept"
            assert "retried automatically" in summary(host)

            host.namespace.run(["nft", "flush", "ruleset"], check=True)
            eventually(lambda: host.tables() == TABLES, "repaired meanwhile", within_s=20)
        host.sidecar_env.unlink()
        host.write_sidecar("ISTIO_INBOUND_PORTS=8080,9090\n")
        eventually(lambda: "9090" in rules(host), "the corrected file")
        eventually(lambda: host.status()["configuration"]["problems"] == [], "no problem left")

    def test_a_start_with_one_that_hangs_goes_on_with_what_has_worked(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        place_files(host)
        with hanging_below(host) as mount:
            join(host)
            host.kill()
            lead_to(host.sidecar_env, mount / "sidecar.env")
            host.start()
            host.verb("wait", "--timeout", "60")
            eventually(lambda: "did not end in time" in summary(host), "the reason is said")
            assert "8080" in rules(host)

    def test_a_host_that_never_joined_says_what_it_cannot_read(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        place_files(host)
        configure(host)
        with hanging_below(host) as mount:
            lead_to(host.sidecar_env, mount / "sidecar.env")
            host.start()
            eventually(lambda: "did not end in time" in summary(host), "the reason is said")
            assert host.status()["in_control"]
            assert host.tables() == set()
        host.sidecar_env.unlink()
        host.write_sidecar("ISTIO_INBOUND_PORTS=8080\n")
        host.verb("wait", "--timeout", "60")


class TestCredentials:
    def test_a_token_that_hangs_keeps_nobody_waiting(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        with hanging_below(host) as mount:
            join(host)
            serial = host.status()["certificate"]["serial"]
            lead_to(host.token, mount / "token")
            configure(host, ISTIO_SERVICE_CIDR="10.78.0.0/24,10.97.0.0/16")
            host.verb("reload")
            assert "10.97." in rules(host)
            status = host.status()
            assert status["in_mesh"]
            assert status["certificate"]["serial"] == serial
            eventually(lambda: host.status()["stuck"] != [], "who looked is named")
            assert "state D" in host.status()["stuck"][0]

    def test_a_first_token_that_hangs_is_read_once_it_answers(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        token = host.token.read_text()
        with hanging_below(host) as mount:
            lead_to(host.token, mount / "token")
            configure(host)
            host.start()
            eventually(lambda: "first certificate" in summary(host), "it asks")
            eventually(lambda: host.status()["stuck"] != [], "who looks at it is named")
            assert host.tables() == set()
            host.token.unlink()
            host.write_token(token)
        host.verb("wait", "--timeout", "60")
        eventually(lambda: host.status()["stuck"] == [], "they ended with the mount")

    def test_one_that_is_not_needed_is_not_asked_for(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        with hanging_below(host) as mount:
            join(host)
            serial = host.status()["certificate"]["serial"]
            lead_to(host.token, mount / "token")
            host.verb("renew")
            assert host.status()["certificate"]["serial"] != serial


# A proxy that is ready until a file names a path: then each of its threads goes there first.
ASKING = f"""
{CAPTURING}
import http.server, os, pathlib, socketserver, sys, threading
path = pathlib.Path(sys.argv[1])
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            os.stat(path.read_text())
        except OSError:
            pass
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
for port in (15000, 15021):
    threading.Thread(target=Server(("127.0.0.1", port), Handler).serve_forever).start()
"""


class TestProxy:
    def test_no_other_is_started_beside_one_that_cannot_be_ended(
        self, make_host: MakeHost
    ) -> None:
        host = make_host()
        script, path = host.directory / "asking.py", host.directory / "path"
        script.write_text(ASKING)
        path.write_text("/")
        stand_in(host, f"exec /usr/bin/python3 {script} {path}")
        with hanging_below(host) as mount:
            join(host)
            before = host.status()["proxy"]["pid"]
            path.write_text(str(mount / "any"))
            eventually(lambda: host.status()["stuck"] != [], "it is named")
            status = host.status()
            assert status["stuck"] == [f"proxy still runs after SIGKILL: pid {before}, state D"]
            assert status["proxy"]["starts"] == 1
            assert str(before) in status["summary"]
            assert host.tables() == TABLES
            path.write_text("/")
        host.verb("wait", "--timeout", "60")
        status = host.status()
        assert status["proxy"]["starts"] == 2
        assert status["stuck"] == []

    def test_nor_beside_what_its_pilot_agent_had_started(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host()
        script, path = host.directory / "asking.py", host.directory / "path"
        script.write_text(ASKING)
        path.write_text("/")
        pilot = host.directory / "pilot-agent"
        pilot.write_text(f"#!/bin/sh\n/usr/bin/python3 {script} {path} &\nwait\n")
        pilot.chmod(0o755)
        host.write_hostagent(
            ISTIO_HOSTAGENT_PROXY="pilot-agent",
            ISTIO_BIN_BASE=str(host.directory),
            ISTIO_HOSTAGENT_ENVOY=envoy,
        )
        with hanging_below(host) as mount:
            join(host)
            path.write_text(str(mount / "any"))
            leader = host.status()["proxy"]["pid"]
            (child,) = map(int, Path(f"/proc/{leader}/task/{leader}/children").read_text().split())
            eventually(lambda: procstate.probe_rest(child) == "D", "it asks")
            os.kill(leader, signal.SIGKILL)
            named = [f"proxy still runs after SIGKILL: pid {child}, state D"]
            eventually(lambda: host.status()["stuck"] == named, "who is left")
            eventually(lambda: "beside an earlier one" in host.log_text(), "it is in the way")
            assert host.status()["proxy"]["starts"] == 1

            # Nor by the next agent.
            host.kill()
            host.start()
            eventually(lambda: named[0] in summary(host), "the next one sees it, too")
            assert host.status()["proxy"]["starts"] == 0
            path.write_text("/")
        host.verb("wait", "--timeout", "40")
        assert host.status()["stuck"] == []

    def test_the_agent_ends_although_its_proxy_cannot(self, make_host: MakeHost) -> None:
        host = make_host()
        script, path = host.directory / "asking.py", host.directory / "path"
        script.write_text(ASKING)
        path.write_text("/")
        stand_in(host, f"exec /usr/bin/python3 {script} {path}")
        with hanging_below(host) as mount:
            join(host)
            path.write_text(str(mount / "any"))
            eventually(lambda: not host.status()["in_mesh"], "it is silent")
            assert host.stop() == 0
            assert host.tables() == set()
            assert "left behind" in host.log_text()


class TestPrograms:
    def test_one_behind_a_mount_is_used_and_its_mount_may_go_away(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host()
        source, mount = host.directory / "source", host.directory / "mount"
        source.mkdir()
        mount.mkdir()
        script = source / "envoy"
        script.write_text(f'#!/bin/sh\nexec {envoy} "$@"\n')
        script.chmod(0o755)
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=str(mount / "envoy"))
        with hanging.HangingMount(mount, shows=source) as shown:
            join(host)
            assert host.status()["proxy"]["binary"] == str(mount / "envoy")
            shown.hang()
            host.write_sidecar("ISTIO_INBOUND_PORTS=8080,9090\n")
            eventually(lambda: "9090" in rules(host), "the change")
            eventually(lambda: host.status()["in_mesh"], "it serves all the same")
