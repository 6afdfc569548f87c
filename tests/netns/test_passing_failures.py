"""What fails once and may work the next time is tried again, and is never taken for a verdict."""

import contextlib
import os
import signal
import threading
from pathlib import Path

from tests.lab import netns
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure, join
from tests.netns.test_trial import Scripted, is_in_mesh, main_rules, place, scripted

__all__ = ["place", "scripted"]


class WorkerKiller:
    """Kills the first worker of one name that appears in a namespace, once."""

    def __init__(self, namespace: netns.Namespace, name: str) -> None:
        self._namespace = namespace
        self._name = name.encode()
        self.killed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "WorkerKiller":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for pid in self._namespace.pids():
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    if self._name in words and any(b"launch.py" in word for word in words):
                        os.kill(pid, signal.SIGKILL)
                        self.killed.set()
                        return


def test_a_validation_that_was_killed_is_no_verdict_on_a_joined_host(
    make_host: MakeHost, scripted: Scripted, place: Path
) -> None:
    short = place / "short-of-memory"
    script = f'case "$*" in *validate*) [ ! -e {short} ] || kill -9 $$;; esac'
    host = make_host(envoy=scripted(script))
    join(host)
    host.kill()
    short.touch()
    host.start()
    eventually(lambda: "SIGKILL" in host.log_text(), "what happened")
    assert "SIGKILL" in host.status()["proxy"]["trouble"]
    assert not is_in_mesh(host)
    assert host.status()["proxy"]["bootstrap"] == "unknown"
    short.unlink()
    host.verb("wait", "--timeout", "20")


def test_a_validation_that_was_killed_is_no_verdict_on_a_changed_configuration(
    make_host: MakeHost, scripted: Scripted, place: Path
) -> None:
    short = place / "short-of-memory"
    script = f'case "$*" in *validate*) [ ! -e {short} ] || kill -9 $$;; esac'
    host = make_host(envoy=scripted(script))
    join(host)
    short.touch()
    configure(host, ENVOY_PORT="15101")
    answer = host.verb("reload", is_checked=False)
    assert answer.returncode == 75, answer.stdout
    assert "SIGKILL" in answer.stderr
    assert is_in_mesh(host)
    short.unlink()
    eventually(lambda: "15101" in main_rules(host), "it is tried again by itself")
    eventually(lambda: is_in_mesh(host), "it works")
    assert host.status()["configuration"]["problems"] == []


def test_a_probe_worker_that_was_killed_does_not_refuse_a_configuration(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    with WorkerKiller(host.namespace, "probes") as killer:
        configure(host, ISTIO_SERVICE_CIDR="10.99.0.0/16")
        eventually(killer.killed.is_set, "the worker was killed")
    eventually(lambda: "10.99" in main_rules(host), "the new rules")
    eventually(lambda: is_in_mesh(host), "it works")
    assert "10.99" in main_rules(host)
    assert host.status()["configuration"]["problems"] == []
    assert not (host.state / "refused.json").exists()


def test_no_space_in_the_runtime_directory_passes(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    join(host)
    host.kill()
    (runtime,) = host.directory.glob("run/*.proxy")
    # As good as a full file system: nothing can be put there.
    moved = runtime.rename(runtime.with_suffix(".away"))
    runtime.write_text("in the way\n")
    host.start()
    eventually(lambda: "cannot be validated" in host.log_text(), "what happened")
    assert "cannot be validated" in host.status()["summary"]
    runtime.unlink()
    moved.rename(runtime)
    host.verb("wait", "--timeout", "20")
