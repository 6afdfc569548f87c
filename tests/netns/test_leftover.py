"""No process of a proxy outlives its agent for long, however that ends."""

import contextlib
from pathlib import Path

import pytest

from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import CAPTURING, MakeHost, join

# Like pilot-agent: its Envoy is a child of its own, which nobody ends when it is killed itself.
PILOT_AGENT = f"""#!/bin/sh
/usr/bin/python3 -c '{CAPTURING}
import http.server as h
class H(h.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_):
        pass
h.HTTPServer(("127.0.0.1", 15021), H).serve_forever()' &
wait
"""


@pytest.fixture
def host(make_host: MakeHost, envoy: str) -> Host:
    made = make_host()
    script = made.directory / "pilot-agent"
    script.write_text(PILOT_AGENT)
    script.chmod(0o755)
    made.write_hostagent(
        ISTIO_HOSTAGENT_PROXY="pilot-agent",
        ISTIO_BIN_BASE=str(made.directory),
        ISTIO_HOSTAGENT_ENVOY=envoy,
    )
    join(made)
    return made


def servers(host: Host) -> set[int]:
    """The processes that serve in the place of Envoy."""
    found = set()
    for pid in host.namespace.pids():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if b"http.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def test_what_a_killed_agent_left_is_ended_by_the_next(host: Host) -> None:
    before = servers(host)
    assert len(before) == 1
    host.kill()
    assert servers(host) == before, "nobody has ended it"
    host.start()
    host.verb("wait", "--timeout", "60")
    assert "had left running" in host.log_text()
    eventually(lambda: len(servers(host)) == 1, "one serves")
    assert not servers(host) & before


def test_a_number_that_is_somebody_elses_now_is_left_alone(host: Host) -> None:
    (record,) = host.directory.glob("run/*.running")
    stranger = host.namespace.popen(["sleep", "600"])
    try:
        text = record.read_text()
        leader = str(host.status()["proxy"]["pid"])
        record.write_text(text.replace(leader, str(stranger.pid)))
        host.kill()
        for pid in servers(host):
            host.namespace.run(["kill", "-9", str(pid)])
        host.start()
        host.verb("wait", "--timeout", "60")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stopping_ends_the_whole_group(host: Host) -> None:
    assert host.stop() == 0
    eventually(lambda: host.namespace.pids() == [], "nothing is left")
