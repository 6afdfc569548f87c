"""A changed bootstrap and a new program are the next Envoy, which takes over from the one that runs.

Real Envoys below a real agent. The host listens on 8080, where a neighbour connects all the time,
and so it reaches the mesh by its proxy; what is refused, cut or answered late is counted.
"""

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import sharedmemory
from tests.lab import admin, netns
from tests.lab.host import PYTHON, Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import NOBODY, MakeHost, join, running

PORT = 8080
DRAIN_S = 15
HOST = "10.78.0.11"
# As long as its standard input is open: a connection and an answer, again and again.
_CLIENT = """
import json, select, socket, sys, time
address, port, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
made, failures, slowest_s = 0, [], 0.0
print("begun", flush=True)
began = time.monotonic()
while not select.select([sys.stdin], [], [], max(began + made / rate - time.monotonic(), 0))[0]:
    at, made = time.monotonic(), made + 1
    try:
        with socket.create_connection((address, port), 5) as client:
            client.sendall(b"GET / HTTP/1.1")
            if not client.recv(1):
                failures.append("closed")
    except OSError as error:
        failures.append(repr(error))
    slowest_s = max(slowest_s, time.monotonic() - at)
print(json.dumps({"made": made, "failures": failures, "slowest_s": slowest_s}), flush=True)
"""
_ECHO = f"""
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 512
Server(("0.0.0.0", {PORT}), Handler).serve_forever()
"""


@pytest.fixture
def program(envoy: str, tmp_path: Path) -> Iterator[Path]:
    """An Envoy of the test's own, to be replaced."""
    directory = Path("/tmp") / f"hatest-program-{os.getpid()}"
    directory.mkdir()
    directory.chmod(0o755)
    found = directory / "envoy"
    shutil.copy(envoy, found)
    yield found
    shutil.rmtree(directory)


@pytest.fixture
def host(make_host: MakeHost, program: Path) -> Iterator[Host]:
    """One in the mesh, whose application sends back what it is sent."""
    made = make_host()
    set_keys(made, program)
    with running(made.namespace, _ECHO):
        join(made)
        yield made


def set_keys(host: Host, program: Path, **keys: str) -> None:
    host.write_hostagent(
        ISTIO_HOSTAGENT_ENVOY=str(program),
        ISTIO_HOSTAGENT_RESTART_DRAIN=f"{DRAIN_S}s",
        **keys,
    )


@contextlib.contextmanager
def requests(cluster: netns.Network, rate: int = 200) -> Iterator[dict[str, object]]:
    """New connections of a neighbour to the host; afterwards it is known what became of them."""
    words = ["-c", _CLIENT, HOST, str(PORT), str(rate)]
    argv = cluster.argv([PYTHON, *words], NOBODY)
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


def proxy(host: Host) -> dict[str, object]:
    return dict(host.status()["proxy"])


def envoys(program: Path) -> set[int]:
    """Every process that serves with this program, or one that was at its path."""
    found = set()
    for each in Path("/proc").glob("[0-9]*/exe"):
        with contextlib.suppress(OSError):
            is_it = os.readlink(each).removesuffix(" (deleted)") == str(program)
            # Others have a look at a bootstrap, or say their version.
            if is_it and b"--base-id" in (each.parent / "cmdline").read_bytes():
                found.add(int(each.parent.name))
    return found


def has_access_log(pid: object) -> bool:
    """Whether the bootstrap of an Envoy wants one."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return "access_log" in Path(words[words.index(b"-c") + 1].decode()).read_text()


def connect(cluster: netns.Network) -> socket.socket:
    made: socket.socket = cluster.connect(HOST, PORT)
    made.settimeout(10)
    assert echo(made)
    return made


def echo(client: socket.socket) -> bool:
    """Whether this connection still carries what is sent on it."""
    try:
        client.sendall(b"hello")
        return client.recv(5) == b"hello"
    except OSError:
        return False


def test_a_changed_key_costs_no_request_and_old_connections_live_until_they_are_drained(
    host: Host, cluster: netns.Network, program: Path
) -> None:
    first = proxy(host)
    with requests(cluster) as told, connect(cluster) as client:
        began = time.monotonic()
        set_keys(host, program, ISTIO_HOSTAGENT_ACCESS_LOG="true")
        eventually(lambda: proxy(host)["epoch"] == 1, "another Envoy serves")
        eventually(lambda: host.status()["in_mesh"], "in the mesh")
        second = proxy(host)
        assert second["pid"] != first["pid"]
        assert second["other"] == {"state": "draining", "pid": first["pid"], "unit": ""}
        while time.monotonic() < began + DRAIN_S - 2:
            assert echo(client), "it is cut before it was drained"
            select.select([], [], [], 0.2)
        eventually(lambda: not echo(client), "it ends")
        eventually(lambda: proxy(host)["other"] is None, "the one before has ended")
    print(told)
    assert told["failures"] == []
    assert int(str(told["made"])) > 500
    assert envoys(program) == {second["pid"]}


def test_a_new_program_at_its_path_takes_over(
    host: Host, cluster: netns.Network, program: Path, envoy: str
) -> None:
    before = proxy(host)
    new = program.with_name("new")
    shutil.copy(envoy, new)
    with requests(cluster) as told:
        new.rename(program)
        eventually(lambda: proxy(host)["epoch"] == 1, "another Envoy serves")
        assert host.status()["in_mesh"]
        eventually(lambda: proxy(host)["other"] is None, "the one before ends")
    print(told)
    assert told["failures"] == []
    after = proxy(host)
    assert after["pid"] != before["pid"]
    inode = os.stat(f"/proc/{after['pid']}/exe").st_ino
    assert inode == program.stat().st_ino


def test_a_broken_program_leaves_the_one_that_serves_and_is_named(
    host: Host, cluster: netns.Network, program: Path
) -> None:
    before = proxy(host)
    new = program.with_name("new")
    new.write_text("#!/bin/sh\necho it does not work >&2\nexit 1\n")
    new.chmod(0o755)
    with requests(cluster) as told:
        new.rename(program)
        eventually(lambda: "it does not work" in host.status()["summary"], "it is named")
        assert host.status()["in_mesh"]
        assert f"the new {program} does not take over" in host.status()["summary"]
    assert told["failures"] == []
    assert proxy(host)["pid"] == before["pid"]


def test_one_of_another_hot_restart_is_started_in_its_place(
    host: Host, program: Path, envoy: str
) -> None:
    before = proxy(host)
    new = program.with_name("new")
    script = f'case "$*" in *hot-restart-version*) echo 12.200; exit;; esac\nexec {envoy} "$@"\n'
    new.write_text(f"#!/bin/sh\n{script}")
    new.chmod(0o755)
    new.rename(program)
    eventually(
        lambda: proxy(host)["pid"] not in (before["pid"], None) and host.status()["in_mesh"],
        "another Envoy serves",
    )
    assert proxy(host)["epoch"] == 0
    assert "another one cannot take over" in host.log_text()
    assert "its hot restart is 12.200, that of what runs 11." in host.log_text()


def test_three_quick_changes_are_two_more_envoys_and_never_three(
    host: Host, cluster: netns.Network, program: Path
) -> None:
    most: list[set[int]] = []
    with requests(cluster) as told:
        set_keys(host, program, ISTIO_HOSTAGENT_ACCESS_LOG="true")
        eventually(lambda: proxy(host)["epoch"] == 1, "another Envoy serves")
        set_keys(host, program, ISTIO_HOSTAGENT_LOG_LEVEL="info")
        eventually(lambda: "is being tried" in host.status()["summary"], "it is seen")
        set_keys(host, program, ISTIO_HOSTAGENT_LOG_LEVEL="error")

        def is_done() -> bool:
            most.append(envoys(program))
            return proxy(host)["epoch"] == 2 and proxy(host)["other"] is None

        eventually(is_done, "the last one serves alone", within_s=60)
        eventually(lambda: host.status()["in_mesh"], "in the mesh")
    print(told, max(map(len, most)))
    assert told["failures"] == []
    assert max(map(len, most)) == 2
    arguments = Path(f"/proc/{proxy(host)['pid']}/cmdline").read_bytes().split(b"\0")
    assert b"error" in arguments
    assert host.log_text().count("proxy started") == 3


def test_a_next_one_that_cannot_serve_leaves_the_one_before_and_the_change_is_refused(
    host: Host, cluster: netns.Network, program: Path
) -> None:
    before = proxy(host)
    taken = "18099"
    listen = f"import socket, time\ns = socket.create_server(('', {taken}))\ntime.sleep(900)\n"
    with (
        running(host.namespace, listen),
        requests(cluster) as told,
        connect(cluster) as client,
    ):
        set_keys(host, program, ISTIO_HOSTAGENT_STATUS_PORT=taken)
        answer = host.verb("reload", is_checked=False)
        # Somebody may give the port up, so it is tried again later.
        assert answer.returncode == 75, answer.stdout + answer.stderr
        assert "Address already in use" in answer.stderr
        eventually(lambda: host.status()["in_mesh"], "the one before is in the mesh")
        assert echo(client)
        assert proxy(host)["pid"] == before["pid"]
        eventually(lambda: envoys(program) == {before["pid"]}, "no other one is left")
        status, _ = ready(host)
        assert status == 200, "it serves, and has no admin interface any more"
        # What has failed is in the way of nothing.
        set_keys(host, program, ISTIO_HOSTAGENT_ACCESS_LOG="true")
        eventually(lambda: proxy(host)["epoch"] == 1, "another Envoy serves")
        eventually(lambda: host.status()["in_mesh"], "in the mesh")
        assert echo(client)
    print(told)
    assert told["failures"] == []


def ready(host: Host) -> tuple[int, str]:
    """What whoever asks whether it is ready is told."""
    with host.namespace.connect("127.0.0.1", 15021) as client:
        return admin.ask_by(client, "/healthz/ready")


def test_a_kill_of_the_agent_between_the_two_leaves_one_envoy_of_the_next_agent(
    host: Host, program: Path
) -> None:
    """Below the agent both end with it; in units they do not (`tests/booted`)."""
    set_keys(host, program, ISTIO_HOSTAGENT_ACCESS_LOG="true")
    eventually(lambda: proxy(host)["other"] is not None, "two run")
    host.kill()
    eventually(lambda: not envoys(program), "they end")
    host.start()
    host.verb("wait", "--timeout", "60")
    # What had not worked yet is tried once more.
    eventually(lambda: has_access_log(proxy(host)["pid"]), "the changed one serves")
    eventually(lambda: proxy(host)["other"] is None, "the one before has ended")
    assert host.status()["in_mesh"]
    assert envoys(program) == {proxy(host)["pid"]}


def test_a_stop_ends_both(host: Host, program: Path) -> None:
    set_keys(host, program, ISTIO_HOSTAGENT_ACCESS_LOG="true")
    eventually(lambda: proxy(host)["other"] is not None, "two run")
    eventually(lambda: len(envoys(program)) == 2, "both have begun")
    place = f"{host.runtime}/{host.namespace.inode}.proxy"
    memory = Path(sharedmemory.path_of(sharedmemory.find_base_id(place, proxy_user()[0])))
    assert memory.stat().st_uid == proxy_user()[0]
    assert host.stop() == 0
    assert envoys(program) == set()
    assert not memory.exists()


def test_nobody_else_reaches_the_sockets_by_which_one_takes_over(host: Host) -> None:
    """Who may send there ends the proxy, or takes its listeners (invariant 11)."""
    shared = next(host.runtime.glob("*.proxy/shared"))
    assert (shared.stat().st_uid, shared.stat().st_mode & 0o777) == (proxy_user()[0], 0o700)
    assert list(shared.glob("hot_parent_*"))
    assert "@envoy" not in host.namespace.run(["cat", "/proc/net/unix"]).stdout


def test_memory_of_somebody_else_under_its_name_is_no_obstacle(
    make_host: MakeHost, program: Path
) -> None:
    made = make_host()
    set_keys(made, program)
    directory = f"{made.runtime}/{made.namespace.inode}.proxy"
    first = sharedmemory.find_base_id(directory, proxy_user()[0])
    planted = [Path(sharedmemory.path_of(first + each)) for each in range(32)]
    for path in planted:
        path.write_bytes(b"planted")
        os.chown(path, NOBODY, NOBODY)
    try:
        join(made)
        assert {path.read_bytes() for path in planted} == {b"planted"}
    finally:
        for path in planted:
            path.unlink()
