"""What fails once and may work the next time is tried again, and is never taken for a verdict."""

from tests.lab.killer import WorkerKiller
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure, join
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
    host.verb("wait", "--timeout", "20")
