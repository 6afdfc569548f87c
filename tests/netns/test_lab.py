"""The laboratory keeps its promises: isolation, real users, honest captures, nothing left."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import capture, endpoint, layers, netns, servers
from tests.lab.waiting import eventually

pytestmark = pytest.mark.netns
REPOSITORY = Path(__file__).resolve().parents[2]
APP, OTHER = 61500, 61501


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    layers.require_namespaces()


@pytest.fixture
def hosts() -> Iterator[tuple[netns.Namespace, netns.Namespace]]:
    with netns.Namespace("a") as a, netns.Namespace("b") as b:
        netns.link(a, b, ["10.9.0.1/24", "fd09::1/64"], ["10.9.0.2/24", "fd09::2/64"])
        yield a, b


Hosts = tuple[netns.Namespace, netns.Namespace]


def own_links() -> str:
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout


def test_nothing_is_left_not_even_after_an_exception() -> None:
    before = own_links()
    names: list[str] = []

    def fail_inside() -> None:
        with netns.Namespace("x") as x, netns.Namespace("y") as y:
            netns.link(x, y, "10.9.0.1/24", "10.9.0.2/24")
            x.write_hosts({"peer": "10.9.0.2"})
            names.extend([x.name, y.name])
            raise KeyError("boom")

    with pytest.raises(KeyError):
        fail_inside()
    for name in names:
        assert not (netns.RUN / name).exists()
        assert not (netns.ETC / name).exists()
    assert own_links() == before


def test_processes_end_with_the_namespace_also_stubborn_ones_and_orphans() -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
    with netns.Namespace("a") as a:
        shell = a.popen(
            ["sh", "-c", f'{netns.PYTHON} -c "{stubborn} time.sleep(600)" & wait'],
            stdout=subprocess.PIPE,
        )
        assert shell.stdout is not None
        assert shell.stdout.readline() == "up\n"
        pids = a.pids()
        assert len(pids) == 2
        assert shell.pid in pids
    assert shell.returncode is not None
    for pid in pids:
        state = Path(f"/proc/{pid}/stat")
        # An orphan whose new parent has not collected it yet is dead all the same.
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_a_killed_test_left_behind_is_swept() -> None:
    code = (
        "from tests.lab import netns; a = netns.Namespace('lost'); a.__enter__();"
        "a.write_hosts({'x': '10.0.0.1'}); print(a.name, flush=True);"
        "import signal; signal.pause()"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        name = maker.stdout.readline().strip()
        netns.sweep()
        assert (netns.RUN / name).exists()
        assert (netns.ETC / name).exists()
        maker.kill()
    netns.sweep()
    # Other tests sweep, too, and may still be at it.
    eventually(lambda: not (netns.RUN / name).exists(), "the namespace is gone")
    eventually(lambda: not (netns.ETC / name).exists(), "its files are gone")


def test_what_is_kept_stays_until_it_is_removed_by_hand() -> None:
    with netns.Namespace("kept", prefix="labdemo") as kept:
        sleeper = kept.popen(["sh", "-c", "echo up; exec sleep 600"], stdout=subprocess.PIPE)
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "up\n"
        kept.keep()
    try:
        assert sleeper.poll() is None
    finally:
        assert netns.main(["remove", kept.name]) == 0
        netns.end([sleeper])
    assert sleeper.returncode == -signal.SIGTERM
    assert not kept.path.exists()
    assert netns.main(["remove", "somebody-elses"]) == 2


def test_a_kept_server_serves_on_when_its_maker_is_gone() -> None:
    code = (
        "import os; from tests.lab import netns, servers;"
        "a = netns.Namespace('kept', prefix='labdemo').__enter__(); print(a.name, flush=True);"
        "s = servers.Server(a, servers.Kind.HTTP, '127.0.0.1', 80, name='kept'); s.__enter__();"
        "os._exit(0)"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        kept = netns.Namespace("kept")
        kept.name = maker.stdout.readline().strip()
        try:
            assert maker.wait(20) == 0
            for _ in range(2):
                _, body = servers.request(kept, "127.0.0.1", 80)
                assert body["server"] == "kept"
        finally:
            kept.close()
    assert not kept.path.exists()


def test_users_environment_and_names_inside(hosts: Hosts) -> None:
    a, _ = hosts
    a.write_hosts({"istiod.istio-system.svc": "10.9.0.2"})
    code = "import os; print(os.getuid(), os.getgid(), os.getgroups(), os.environ['WORD'])"
    said = a.python(code, user=APP, env={"WORD": "x"})
    assert said.split() == [str(APP), str(APP), "[]", "x"]
    named = a.run(["id", "-un"], user="nobody", check=True)
    assert named.stdout == "nobody\n"
    found = a.run(["getent", "hosts", "istiod.istio-system.svc"], check=True)
    assert found.stdout.split()[0] == "10.9.0.2"
    with pytest.raises(netns.LabError, match="status 3: oops"):
        a.run(["sh", "-c", "echo oops; exit 3"], check=True)


def test_a_network_joins_several_hosts() -> None:
    with (
        netns.Network("cluster", "10.9.0.1/24", "fd09::1/64") as cluster,
        netns.Namespace("a") as a,
        netns.Namespace("b") as b,
    ):
        cluster.join(a, "10.9.0.2/24", "fd09::2/64")
        port = cluster.join(b, "10.9.0.3/24", "fd09::3/64")
        with (
            servers.Server(b, servers.Kind.HTTP, "10.9.0.3", 80, also=[("fd09::3", 80)]),
            capture.Capture(cluster, port) as wire,
        ):
            for host in ("10.9.0.3", "fd09::3"):
                reply, body = servers.request(a, host, 80, "/hello")
                assert reply.outcome == "answered", reply
                assert (body["server"], body["path"]) == ("b", "/hello")
        assert len(wire.openings(80)) == 2
        assert a.run(["ping", "-c1", "-W2", "10.9.0.1"]).returncode == 0 or not _has("ping")


def _has(program: str) -> bool:
    return subprocess.run(["which", program], capture_output=True, check=False).returncode == 0


def test_a_socket_made_inside_stays_inside(hosts: Hosts) -> None:
    a, b = hosts
    listener = b.bind("10.9.0.2", 7100)
    listener.listen()
    with listener:
        assert servers.ask(a, "10.9.0.2", 7100, timeout_s=0.2).outcome == "silent"
        with a.connect("10.9.0.2", 7100):
            pass
    with socket.socket() as ours, pytest.raises(OSError, match="assign"):
        ours.bind(("10.9.0.2", 7100))
    assert servers.ask(a, "10.9.0.2", 7100).outcome == "refused"


def test_the_banner_comes_first_and_the_echo_follows(hosts: Hosts) -> None:
    a, b = hosts
    with servers.Server(b, servers.Kind.ECHO, "10.9.0.2", 7000, banner="hi\n", user=APP) as echo:
        assert Path(f"/proc/{echo.pid}").stat().st_uid == APP
        reply = servers.ask(a, "10.9.0.2", 7000, "ping", half_close=True, user=OTHER)
        assert (reply.outcome, reply.received) == ("answered", "hi\nping")
        quiet = servers.ask(a, "10.9.0.2", 7000, timeout_s=2.0)
        assert (quiet.outcome, quiet.received) == ("silent", "hi\n")
        assert servers.ask(a, "10.9.0.2", 7000, until=3).received == "hi\n"
        first, *_ = echo.connections(3)
        assert first.received == "ping"
        assert first.peer == reply.local
        assert first.wanted == ("10.9.0.2", 7000)
        assert echo.accepted() == 3


def test_outcomes_are_told_apart(hosts: Hosts) -> None:
    a, _ = hosts
    # The neighbour answers for no such address: connecting ends as unreachable or times out.
    targets = [
        servers.Target("10.9.0.2", 7999),
        servers.Target("192.0.2.1", 80),
        servers.Target("fd09::2", 7999),
    ]
    outcomes = [reply.outcome for reply in servers.ask_all(a, targets)]
    assert outcomes == ["refused", "error", "refused"]
    a.run(["nft", "add table inet t; add chain inet t o { type filter hook output priority 0; }"])
    a.run(["nft", "add rule inet t o tcp dport 7999 drop"], check=True)
    reply = servers.ask(a, "10.9.0.2", 7999, timeout_s=0.3)
    assert (reply.outcome, reply.is_connected) == ("timeout", False)


@pytest.mark.parametrize(("host", "other"), [("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")])
def test_a_redirected_client_is_told_what_it_wanted(hosts: Hosts, host: str, other: str) -> None:
    a, b = hosts
    rules = (
        "table inet t { chain o { type nat hook output priority -101;"
        f" meta skuid {APP} tcp dport 7000 redirect to :15001; }}; }}\n"
    )
    a.run(["nft", "-f", "-"], stdin=rules, check=True)
    loopback = "::1" if ":" in host else "127.0.0.1"
    kind = servers.Kind.ORIGINAL_DESTINATION
    with (
        servers.Server(a, kind, loopback, 15001, also=[(other, 15001)]) as proxy,
        servers.Server(b, servers.Kind.RECORD, host, 7000, banner="b") as real,
    ):
        assert servers.ask(a, host, 7000, user=APP).received == f"{host} 7000\n"
        assert real.accepted() == 0
        assert servers.ask(a, host, 7000, user=OTHER, until=1).received == "b"
        assert real.accepted() == 1
        assert proxy.accepted() == 1
        direct = servers.ask(a, other, 15001).received
        assert direct == f"{other} 15001\n"


def test_traffic_counts_what_failed(hosts: Hosts) -> None:
    a, b = hosts
    target = servers.Target("10.9.0.2", 80, servers.render_request("b"), timeout_s=5)
    with servers.Server(b, servers.Kind.HTTP, "10.9.0.2", 80, name="bee") as web:
        with servers.Traffic(a, target, needle='"server": "bee"', user=APP) as traffic:
            tally = traffic.stop()
        assert tally.made >= 3
        assert tally.failed == 0
        assert web.accepted() == tally.made
    with servers.Traffic(a, target) as traffic:
        tally = traffic.stop()
    assert tally.failed == tally.made >= 3
    assert tally.failures[0]["outcome"] == "refused"


def test_a_server_that_cannot_start_says_why(hosts: Hosts) -> None:
    a, _ = hosts
    # The low port belongs to root.
    with (
        pytest.raises(netns.LabError, match="Permission denied"),
        servers.Server(a, servers.Kind.ECHO, "127.0.0.1", 80, user=APP),
    ):
        pass


def test_a_capture_holds_everything_from_start_to_stop(hosts: Hosts, tmp_path: Path) -> None:
    a, b = hosts
    secret = "the secret words" * 4000
    with servers.Server(b, servers.Kind.RECORD, "10.9.0.2", 7000) as server:
        for _ in range(4):
            with capture.Capture(b, "eth0") as wire:
                servers.ask(a, "10.9.0.2", 7000, secret, half_close=True)
            assert sent(wire) == secret.encode()
        with capture.Capture(b, "eth0") as wire:
            servers.ask(a, "10.9.0.2", 7000, secret, half_close=True)
        assert wire.dropped == 0
        assert sent(wire) == secret.encode()
        (opening,) = wire.openings()
        assert (opening.source, opening.destination) == ("10.9.0.1", "10.9.0.2")
        assert not any(segment.is_tls or segment.is_reset for segment in wire.segments())
        assert len(server.connections(5)) == 5
    wire.write_pcap(tmp_path / "pcap")
    read = subprocess.run(
        ["tcpdump", "-n", "-r", str(tmp_path / "pcap"), "tcp port 7000"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"10\.9\.0\.1\.\d+ > 10\.9\.0\.2\.7000: Flags \[S\]", read.stdout)


def sent(wire: capture.Capture) -> bytes:
    """What the client has sent, each byte once: on a busy machine some of it is sent again."""
    (opening,) = wire.openings(7000)
    stream = bytearray()
    for segment in wire.segments(7000):
        if segment.source == opening.source:
            at = (segment.sequence - opening.sequence - 1) % (1 << 32)
            stream[at : at + len(segment.payload)] = segment.payload
    return bytes(stream)


def test_a_capture_on_the_loopback_sees_each_packet_once_and_waits(hosts: Hosts) -> None:
    a, _ = hosts
    with (
        servers.Server(a, servers.Kind.RECORD, "::1", 7000, banner="\x16\x03\x01\0\0"),
        capture.Capture(a, "lo") as wire,
    ):
        servers.ask(a, "::1", 7000, until=5)
        first = wire.wait_for(lambda segment: bool(segment.payload))
        assert first.is_tls
        assert (first.source, first.source_port) == ("::1", 7000)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.wait_for(lambda segment: segment.source_port == 1, timeout_s=0.1)
        assert time.monotonic() - began < 2
    assert len([segment for segment in wire.segments() if segment.is_opening]) == 1


def test_the_machines_own_namespace_is_entered_by_nobody(hosts: Hosts) -> None:
    a, _ = hosts
    before = os.stat("/proc/self/ns/net").st_ino
    assert a.inside(lambda: os.stat("/proc/thread-self/ns/net").st_ino) == a.inode
    with pytest.raises(ZeroDivisionError):
        a.inside(lambda: 1 // 0)
    assert os.stat("/proc/self/ns/net").st_ino == before != a.inode


def test_the_endpoint_stands_alone() -> None:
    # It is run as text by users who cannot read the checkout.
    source = Path(endpoint.__file__).read_text()
    assert not re.search(r"^\s*(from \.|import tests|from tests)", source, re.MULTILINE)
