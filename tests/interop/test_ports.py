"""The capture ports of a host with the real pilot-agent: shared with Envoy, and with nobody else."""

import os
import signal
import subprocess
import time

from tests.lab import admin, servers, thief
from tests.lab.host import PYTHON, Host
from tests.lab.manager import Manager
from tests.lab.waiting import eventually

from .conftest import APPLICATION_PORT, JOIN_LIMIT_S, is_answered
from .istiod import Istiod
from .test_hang import envoy_of

NOBODY = 65534
PLACES = "0.0.0.0,127.0.0.1,::,::1,127.0.0.6"


def test_nobody_else_gets_one_while_envoy_pilot_agent_and_agent_are_killed(
    host: Host, istiod: Istiod
) -> None:
    log = host.directory / "thief.log"
    application = servers.Server(host.namespace, servers.Kind.HTTP, "0.0.0.0", APPLICATION_PORT)
    with Manager() as manager, log.open("w") as out, application:
        host.manager = manager
        host.start()
        host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
        assert host.status()["capture_ports"]["state"] == "held"
        command = [PYTHON, "-c", thief.SCRIPT, "15001,15006", PLACES]
        stealing = subprocess.Popen(host.namespace.argv(command, NOBODY), stdout=out)
        try:
            eventually(lambda: "ready" in log.read_text(), "he has begun")
            for act in ("envoy", "pilot-agent", "agent", "restart"):
                if act == "agent":
                    host.kill()
                elif act == "restart":
                    host.stop()
                else:
                    pid = host.status()["proxy"]["pid"]
                    os.kill(envoy_of(host) if act == "envoy" else pid, signal.SIGKILL)
                if host.agent is None:
                    host.start()
                host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
                eventually(lambda: is_answered(istiod), "it is answered", within_s=JOIN_LIMIT_S)
                assert log.read_text().split() == ["ready"], act
            assert stealing.poll() is None
        finally:
            stealing.kill()
            stealing.wait(10)
        host.stop()


def test_an_envoy_whose_listeners_were_drained_is_replaced(joined: Host, istiod: Istiod) -> None:
    eventually(lambda: is_answered(istiod), "the application is answered")
    envoy = envoy_of(joined)
    assert admin.ask_port(joined.namespace, "/drain_listeners", "POST")[0] == 200
    begin = time.monotonic()
    eventually(lambda: "its listeners were closed" in joined.log_text(), "it is said")
    said_s = time.monotonic() - begin
    eventually(lambda: is_answered(istiod), "it is answered again", within_s=60)
    print(f"said after {said_s:.1f} s, answered after {time.monotonic() - begin:.1f} s")
    assert envoy_of(joined) not in (0, envoy)
    assert "its listeners were closed" in joined.log_text()
