"""An agent whose workers are taken over: whoever holds their user can write their answers."""

import json
import shutil
from pathlib import Path

import pytest

from tests.lab.host import CHECKOUT, Host
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure

WORKER = Path("istio_hostagent", "workers", "certificate.py")
ANSWERS = {
    "a-moment-that-no-calendar-has": '{"held": {**HELD, "not_after": 1e300}}',
    "a-line-end-in-a-name": '{"held": {**HELD, "identity": "x" + chr(10) + "READY=1"}}',
    "too-long": '{"held": {**HELD, "identity": "x" * 50_000_000}}',
    "nothing-of-it": "[[[3]]]",
}
HOSTILE = """
import json, sys
HELD = {"identity": "spiffe://a/b", "serial": "1", "not_before": 0, "not_after": 1, "received": 0}
def main():
    json.dump(%s, sys.stdout)
"""


@pytest.mark.envoy
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_a_worker_says_stops_no_answer_of_the_agent(
    make_host: MakeHost, envoy: str, answer: str
) -> None:
    host = make_host(envoy=envoy)
    host.checkout = host.directory / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    package = host.checkout / WORKER.parts[0]
    shutil.copytree(CHECKOUT / WORKER.parts[0], package, ignore=ignored)
    (host.checkout / WORKER).write_text(HOSTILE % answer)
    configure(host)
    host.start()
    eventually(lambda: "worker certificate gave a wrong answer" in last_error(host), "the refusal")
    assert memory_kb(host) < 60_000
    waited = host.verb("wait", "--timeout", "0.1", is_checked=False)
    assert "gave a wrong answer" in waited.stderr
    assert host.tables() == set()

    shutil.copy(CHECKOUT / WORKER, host.checkout / WORKER)
    host.verb("wait", "--timeout", "60")


def last_error(host: Host) -> str:
    """What the agent says of its certificate; nothing as long as it does not answer."""
    said = host.verb("status", "--json", is_checked=False).stdout
    return str(json.loads(said)["certificate"]["last_error"]) if said else ""


def memory_kb(host: Host) -> int:
    """The most that the agent has ever used."""
    assert host.agent is not None
    lines = Path(f"/proc/{host.agent.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
