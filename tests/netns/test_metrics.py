"""The page that Prometheus reads: from a process without rights, of what a real agent publishes."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import netns
from tests.lab.host import PYTHON, Host
from tests.lab.waiting import eventually
from tests.netns.conftest import NOBODY, MakeHost, join

MOST_PSS_KB = 12 * 1024
# What systemd does for a socket unit (sd_listen_fds(3)), as far as a process of ours sees it.
ACTIVATE = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
listener.listen(16)
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
os.dup2(listener.fileno(), 3); os.set_inheritable(3, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-IS", sys.argv[3], "metrics"])
"""


class Exporter:
    """The process behind a socket, as a user without rights."""

    def __init__(self, space: netns.Namespace, directory: Path, checkout: Path) -> None:
        self.path = directory / "metrics.sock"
        package = directory / "exporter"
        shutil.copytree(checkout / "istio_hostagent", package / "istio_hostagent")
        launcher = package / "istio_hostagent/workers/launch.py"
        words = [str(self.path), str(NOBODY), str(launcher)]
        self.process = subprocess.Popen(space.argv([PYTHON, "-c", ACTIVATE, *words]))
        eventually(self._is_open, "it listens")

    def _is_open(self) -> bool:
        return self.path.exists() and bool(self.path.stat().st_mode & 0o002)

    def ask(self, request: bytes) -> bytes:
        """Send it as it is, and give all that is answered."""
        with self.connected() as line:
            line.sendall(request)
            answer = b""
            while part := line.recv(65536):
                answer += part
            return answer

    def connected(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(20.0)
        eventually(lambda: not line.connect_ex(str(self.path)), "somebody listens")
        return line

    def metrics(self) -> dict[str, str]:
        """The samples of the page."""
        answer = self.ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")
        head, _, body = answer.decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        assert f"\r\nContent-Length: {len(body.encode())}\r\n" in head
        lines = body.splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def pss_kb(self) -> int:
        """What it takes of memory that nobody else has."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
        return int(line.split()[1])


@pytest.fixture
def host(make_host: MakeHost, envoy: str) -> Host:
    made = make_host(envoy=envoy)
    join(made)
    return made


@pytest.fixture
def exporter(host: Host) -> Iterator[Exporter]:
    made = Exporter(host.namespace, host.directory, host.checkout)
    yield made
    made.process.kill()
    made.process.wait(10)


@pytest.mark.envoy
def test_prometheus_reads_how_the_host_stands_and_what_it_has_captured(
    host: Host, exporter: Exporter
) -> None:
    seen = exporter.metrics()
    assert seen["istio_hostagent_up"] == seen["istio_hostagent_in_mesh"] == "1"
    name = 'istio_hostagent_captured_connections_total{direction="outbound"}'
    before = int(host.status()["captured_connections"]["outbound"])
    assert int(seen[name]) <= before
    for _ in range(3):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            script = "import socket; socket.create_connection(('10.78.0.1', 9), 3)"
            host.namespace.run([PYTHON, "-c", script], check=False)
    assert host.status()["captured_connections"]["outbound"] == before + 3
    host.verb("renew")
    eventually(lambda: int(exporter.metrics()[name]) == before + 3, "published with the renewal")
    assert exporter.pss_kb() <= MOST_PSS_KB
    host.kill()
    seen = exporter.metrics()
    assert seen["istio_hostagent_up"] == seen["istio_hostagent_in_mesh"] == "0"


@pytest.mark.envoy
def test_nobody_keeps_others_from_being_answered(exporter: Exporter) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(40):  # more than there is room for; none says a word
            stack.enter_context(exporter.connected())
        assert exporter.metrics()["istio_hostagent_up"] == "1"
    assert exporter.ask(b"GET /other HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert exporter.ask(b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert exporter.ask(b"\0\xff\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    head = exporter.ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        assert exporter.ask(b"GET /metrics" + b"x" * 20000) == b""
    assert exporter.ask(b"GET /met") == b""  # cut off after two seconds
    assert exporter.metrics()["istio_hostagent_up"] == "1"
