"""Envoy takes over from Envoy while the real istiod says what both do, and while it says nothing."""

import contextlib
import json
import subprocess
from collections.abc import Iterator

from tests.lab.host import PYTHON, Host
from tests.lab.waiting import eventually

from .istiod import Istiod
from .test_directed import (
    PLACES,
    SERVICE_PORT,
    alone,
    is_answered,
    join,
    peer_of,
    piloted,
    readiness,
    wait_for,
)

__all__ = ("alone", "piloted")  # fixtures
# Until its standard input ends: a request after the other, by a connection each.
_CLIENT = """
import http.client, json, select, sys
made, failures = 0, []
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    made += 1
    for address, port, path in json.loads(sys.argv[1]):
        connection = http.client.HTTPConnection(address, port, timeout=30)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
            if status != 200:
                failures.append(f"{port}{path}: {status}")
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{port}{path}: {error!r}")
        connection.close()
print(json.dumps({"made": made, "failures": failures}), flush=True)
"""


@contextlib.contextmanager
def asking(host: Host) -> Iterator[dict[str, object]]:
    """Ask the other host's application, and whether this one's proxy is ready, all the time."""
    asked = [(PLACES["piloted"][1], SERVICE_PORT, "/"), ("127.0.0.1", 15021, "/healthz/ready")]
    argv = host.namespace.argv([PYTHON, "-c", _CLIENT, json.dumps(asked)], 1500)
    told: dict[str, object] = {}
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        assert client.stdout.readline() == "begun\n"
        try:
            yield told
        finally:
            client.stdin.close()
            told |= json.loads(client.stdout.readline())
            client.wait(20)


def set_key(host: Host, key: str, value: str) -> None:
    lines = host.hostagent_env.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{key}=")]
    host.hostagent_env.write_text("\n".join([*kept, f"{key}={value}"]) + "\n")


def epoch(host: Host) -> int:
    return int(host.status()["proxy"]["epoch"])


def test_the_next_envoy_takes_over_once_it_has_what_istiod_says(
    alone: Host,
    piloted: Host,
    istiod: Istiod,
) -> None:
    join(alone)
    assert peer_of(alone, "piloted")
    with asking(alone) as told:
        set_key(alone, "ISTIO_HOSTAGENT_LOG_LEVEL", "info")
        eventually(lambda: epoch(alone) == 1, "another Envoy serves")
        eventually(lambda: alone.status()["proxy"]["other"] is None, "alone")
    print(told)
    assert told["failures"] == []
    eventually(lambda: bool(alone.status()["in_mesh"]), "in the mesh")
    assert is_answered(piloted, "alone")

    # Without istiod the next one has nothing to serve.
    istiod.stop()
    wait_for(alone, "away")
    before = alone.status()["proxy"]["pid"]
    with asking(alone) as told:
        set_key(alone, "ISTIO_HOSTAGENT_LOG_LEVEL", "error")
        answer = alone.verb("reload", is_checked=False)
        assert answer.returncode == 75, answer.stdout + answer.stderr
        proxy = alone.status()["proxy"]
        assert (proxy["pid"], proxy["epoch"]) == (before, 1)
    print(told)
    assert told["failures"] == []
    assert readiness(alone) == 200
    istiod.start()
    with asking(alone) as told:
        alone.verb("reload")
        assert epoch(alone) == 2
    print(told)
    assert told["failures"] == []
