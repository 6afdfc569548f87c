"""What fails once and may work the next time is tried again, and is never taken for a verdict."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab.killer import WorkerKiller
from tests.lab.waiting import eventually
from tests.netns.conftest import MESH, MakeHost, configure, join
from tests.netns.test_trial import is_in_mesh, main_rules


def test_a_worker_of_the_probes_that_was_killed_does_not_refuse_a_configuration(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    # More networks than before: sockets for more packets are needed.
    networks = ",".join(f"10.99.{number}.0/24" for number in range(8))
    with WorkerKiller(host.namespace, "probe_sockets") as killer:
        configure(host, ISTIO_SERVICE_CIDR=networks)
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
    host.verb("wait", "--timeout", "60")


@contextlib.contextmanager
def small_file_system(directory: Path) -> Iterator[None]:
    """A file system with room for little at a directory."""
    directory.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs", directory], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory: Path) -> None:
    with contextlib.suppress(OSError), open(directory / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(os.urandom(4096))


def test_a_full_runtime_directory_does_not_keep_a_joined_host_out(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    with small_file_system(host.directory / "run"):
        join(host)
        host.kill()
        fill(host.directory / "run")
        host.start()
        host.verb("wait", "--timeout", "60")
        host.stop()


def test_what_has_worked_on_a_full_disk_is_what_a_start_begins_with(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    with small_file_system(host.state):
        join(host)
        eventually(lambda: (host.state / "guard.nft").exists(), "the guard of early boot")
        fill(host.state)
        configure(host, ISTIO_SERVICE_CIDR=f"{MESH},10.97.0.0/16")
        accepted, guard = host.state / "accepted.json", host.state / "guard.nft"
        eventually(lambda: "10.97.0.0" in accepted.read_text(), "written down")
        eventually(lambda: "10.97.0.0" in guard.read_text(), "so that a boot knows it")
        host.kill()
        said = len(host.log_text())
        host.start()
        host.verb("wait", "--timeout", "60")
        host.verb("verify")
        assert host.log_text()[said:].count("proxy started") == 1
        assert "not-saved" not in host.log_text()
        host.stop()
