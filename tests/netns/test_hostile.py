"""Hostile reality: what other people, full disks and bad timing do to a running agent.

Each test breaks one of the invariants of the design unless the agent takes care; none of them
needs luck to do it.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import struct
import time
from pathlib import Path

import pytest

from istio_hostagent.host import control
from tests.demo.ca_server import DemoAuthority
from tests.lab import refusal
from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import CLUSTER, MakeHost, configure, join, stand_in
from tests.netns.test_agent import TABLES

# Connections to one inbound port never reach our rules: somebody translates them before.
THIEF = """
table ip thief {
  chain early {
    type nat hook prerouting priority -150; policy accept;
    tcp dport %d redirect to :9999
  }
}
"""
ACCOUNT = "system:serviceaccount:default:default"


def nft(host: Host, text: str) -> None:
    host.namespace.run(["nft", "-f", "-"], stdin=text, check=True)


def rules(host: Host) -> str:
    """The rules as people see them, in which port numbers are found."""
    listing = ["nft", "list", "table", "inet", "istio_hostagent"]
    return host.namespace.run(listing).stdout


def summary(host: Host) -> str:
    """What the agent says in one line; nothing as long as it does not answer."""
    try:
        return str(host.status()["summary"])
    except json.JSONDecodeError:
        return ""


def is_alive(host: Host) -> bool:
    return host.agent is not None and host.agent.poll() is None


@pytest.mark.envoy
class TestConfigurationsThatDoNotHold:
    def test_one_that_was_refused_is_not_taken_again_by_itself(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        nft(host, THIEF % 9090)
        host.write_sidecar("ISTIO_INBOUND_PORTS=8080,9090\n")
        eventually(lambda: "rejected" in summary(host), "the refusal is said")
        eventually(lambda: host.status()["in_mesh"], "the one before works again")
        assert "9090" not in rules(host)

        # Another watched file of the same directory changes: that says nothing about this one.
        for _ in range(3):
            host.token.touch()
            host.verb("reload", is_checked=False)
        eventually(lambda: host.status()["in_mesh"], "in the mesh all the same")
        assert "rejected" in summary(host)
        assert "9090" not in rules(host)

        host.namespace.run(["nft", "delete", "table", "ip", "thief"], check=True)
        assert host.verb("reload").returncode == 0
        assert "9090" in rules(host)
        assert host.status()["configuration"]["problems"] == []

    def test_one_after_a_typo_goes_back_as_well(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        join(host)
        nft(host, THIEF % 9090)
        host.write_sidecar("ISTIO_INBOUND_PORTS=8080,90900\n")
        eventually(lambda: host.status()["configuration"]["state"] == "kept", "the typo")
        host.write_sidecar("ISTIO_INBOUND_PORTS=8080,9090\n")
        eventually(lambda: "rejected" in summary(host), "the refusal is said")
        eventually(lambda: host.status()["in_mesh"], "the one before works again")
        assert "9090" not in rules(host)

    def test_one_that_came_while_the_agent_was_away_goes_back_too(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        host.kill()
        nft(host, THIEF % 9090)
        host.write_sidecar("ISTIO_INBOUND_PORTS=8080,9090\n")
        host.start()
        host.verb("wait", "--timeout", "60")
        eventually(lambda: "rejected" in summary(host), "the refusal is said")
        eventually(lambda: host.status()["in_mesh"], "the one before works")
        assert "9090" not in rules(host)

    def test_on_a_host_that_is_not_joined_nothing_stays(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        nft(host, THIEF % 8080)
        configure(host)
        host.start()
        eventually(lambda: "could not join" in host.log_text(), "the attempt")
        eventually(lambda: host.tables() == {"thief"}, "our rules are gone")
        eventually(lambda: "8080" in host.status()["redirection"]["last_error"], "the reason")
        host.namespace.run(["nft", "delete", "table", "ip", "thief"], check=True)
        host.verb("wait", "--timeout", "60")

    def test_rules_of_others_that_come_before_ours_are_noticed(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        nft(host, THIEF % 8080)
        eventually(lambda: "port 9999" in summary(host), "what is wrong")
        assert not host.status()["in_mesh"]
        assert host.tables() == {*TABLES, "thief"}
        eventually(lambda: "CULPRIT=nft" in host.log_text(), "the culprit is named")
        host.namespace.run(["nft", "delete", "table", "ip", "thief"], check=True)
        eventually(lambda: host.status()["in_mesh"], "it is gone")

    def test_a_proxy_that_ends_again_and_again_gets_the_rules_taken_out(
        self, make_host: MakeHost
    ) -> None:
        host = make_host()
        stand_in(host, "echo boom; exit 3")
        configure(host)
        host.start()
        eventually(lambda: host.tables() == TABLES, "the attempt")
        eventually(lambda: host.tables() == set(), "the way back")
        eventually(lambda: "boom" in summary(host), "its last words")

    def test_a_change_in_the_middle_of_an_attempt_leaves_no_rules(
        self, make_host: MakeHost
    ) -> None:
        host = make_host()
        stand_in(host, "exec sleep 600")
        configure(host)
        host.start()
        eventually(lambda: host.tables() == TABLES, "the attempt")
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY="/nowhere/envoy")
        host.write_sidecar("ISTIO_INBOUND_PORTS=8081\n")
        eventually(lambda: "/nowhere" in summary(host), "the new files are seen")
        eventually(lambda: host.tables() == set(), "the attempt's rules are gone")


@pytest.mark.envoy
class TestStateDirectory:
    @pytest.mark.parametrize("name", ["joining", "guard.nft", "accepted.json", "joined"])
    def test_a_write_that_fails_while_joining_leaves_no_rules(
        self, make_host: MakeHost, envoy: str, name: str
    ) -> None:
        host = make_host(envoy=envoy)
        obstacle = host.state / f"{name}.new"
        obstacle.mkdir(parents=True)
        configure(host)
        host.start()
        eventually(lambda: name in summary(host), "the file is named")
        assert is_alive(host)
        eventually(lambda: host.tables() == set(), "no rules without their marks")
        assert not host.status()["in_mesh"]
        obstacle.rmdir()
        host.verb("wait", "--timeout", "60")
        assert (host.state / "joined").exists()

    @pytest.mark.parametrize("name", ["guard.nft", "accepted.json"])
    def test_a_write_that_fails_on_a_joined_host_is_said_and_made_up_for(
        self, make_host: MakeHost, envoy: str, name: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        obstacle = host.state / f"{name}.new"
        obstacle.mkdir()
        configure(host, ISTIO_SERVICE_CIDR="10.97.0.0/16")
        eventually(lambda: "10.97." in rules(host), "the new range")
        eventually(lambda: name in summary(host), "the file is named")
        assert is_alive(host)
        eventually(lambda: host.status()["in_mesh"], "in the mesh all the same")
        obstacle.rmdir()
        eventually(lambda: name not in summary(host), "written")
        assert "10.97." in (host.state / name).read_text()

    def test_an_accepted_record_of_any_size_is_read_again(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        filler = "# " + "x" * 900_000 + "\n"
        host.hostagent_env.write_text(filler + host.hostagent_env.read_text())
        configure(host)
        host.write_sidecar(f"{filler}ISTIO_INBOUND_PORTS=8080\n")
        host.start()
        host.verb("wait", "--timeout", "60")
        host.kill()
        host.sidecar_env.unlink()
        host.start()
        host.verb("wait", "--timeout", "60")
        eventually(lambda: "is gone" in summary(host), "it says so")
        assert "8080" in rules(host)

    @pytest.mark.parametrize(
        "text", ["", "[]", "[" * 100_000, '{"layers": [{"file": 1, "text": 2}]}', "\0" * 100]
    )
    def test_a_broken_accepted_record_counts_as_none(
        self, make_host: MakeHost, envoy: str, text: str
    ) -> None:
        host = make_host(envoy=envoy)
        configure(host)
        host.state.mkdir()
        (host.state / "accepted.json").write_text(text)
        host.start()
        host.verb("wait", "--timeout", "60")

    def test_stop_takes_the_rules_out_though_nothing_can_be_removed(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        proxy = host.status()["proxy"]["pid"]
        host.namespace.run(["mount", "--bind", str(host.state), str(host.state)], check=True)
        command = ["mount", "-o", "remount,bind,ro", str(host.state)]
        # In the agent's own mount namespace.
        pid = str(host.agent.pid) if host.agent else ""
        for words in (["mount", "--bind", str(host.state), str(host.state)], command):
            host.namespace.run(["nsenter", "-m", "-t", pid, *words], check=True)
        host.stop()
        assert host.tables() == set()
        assert not Path(f"/proc/{proxy}").exists()


class TestControlSocket:
    def connect(self, host: Host) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
        made.connect(f"{control.DIRECTORY}/{host.namespace.inode}.sock")
        return made

    def running(self, make_host: MakeHost) -> Host:
        host = make_host()
        host.start()
        eventually(lambda: "waiting for" in host.log_text(), "it runs")
        return host

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"\n",
            b"{}\n",
            b"[]\n",
            b"null\n",
            b"\xff\xfe\n",
            b'{"verb": []}\n',
            b'{"verb": "frobnicate"}\n',
            b"[" * 200_000 + b"\n",
            b'{"a":' * 100_000 + b"\n",
            b"x" * (2 << 20),
            b"1" * 100_000 + b"\n",
        ],
        ids=lambda line: f"{line[:8]!r}x{len(line)}",
    )
    def test_nothing_that_is_sent_ends_the_agent(self, make_host: MakeHost, line: bytes) -> None:
        host = self.running(make_host)
        with self.connect(host) as made:
            try:
                made.sendall(line)
                made.shutdown(socket.SHUT_WR)
                while made.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass
        assert host.status()["in_control"]

    def test_a_thousand_clients_that_say_nothing(self, make_host: MakeHost) -> None:
        host = self.running(make_host)
        with contextlib.ExitStack() as held:
            for _ in range(500):
                silent = held.enter_context(self.connect(host))
                silent.sendall(b'{"verb": "sta')
            assert host.status()["in_control"]
            assert is_alive(host)
        assert host.agent is not None
        descriptors = Path(f"/proc/{host.agent.pid}/fd")
        eventually(lambda: len(list(descriptors.iterdir())) < 40, "they are closed again")

    def test_it_runs_out_of_descriptors_and_goes_on(self, make_host: MakeHost) -> None:
        host = self.running(make_host)
        assert host.agent is not None
        limits = resource.prlimit(host.agent.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(host.agent.pid, resource.RLIMIT_NOFILE, (32, limits[1]))
        with contextlib.ExitStack() as held:
            for _ in range(30):
                held.enter_context(self.connect(host))
            assert is_alive(host)
        resource.prlimit(host.agent.pid, resource.RLIMIT_NOFILE, limits)
        assert host.status()["in_control"]

    def test_a_client_that_never_reads_holds_nobody_up(self, make_host: MakeHost) -> None:
        host = self.running(make_host)
        with self.connect(host) as silent:
            silent.sendall(json.dumps({"verb": "status"}).encode() + b"\n")
            assert host.status()["in_control"]


class TestWatching:
    def waiting(self, make_host: MakeHost) -> Host:
        host = make_host()
        place = host.directory / "conf"
        place.mkdir()
        host.cluster_env, host.sidecar_env = place / "cluster.env", place / "sidecar.env"
        configure(host)
        host.start()
        eventually(lambda: "no envoy found" in host.log_text(), "it runs")
        return host

    def sees(self, host: Host, ports: str) -> bool:
        return any(ports in line for line in host.status()["configuration"]["problems"])

    def test_a_directory_that_is_removed_and_made_again(self, make_host: MakeHost) -> None:
        host = self.waiting(make_host)
        for turn in range(3):
            shutil.rmtree(host.cluster_env.parent)
            eventually(lambda: "waiting for" in summary(host), "the files are gone")
            host.cluster_env.parent.mkdir()
            configure(host)
            host.write_sidecar(f"ISTIO_INBOUND_PORTS=9{turn}x\n")
            eventually(lambda: self.sees(host, f"9{turn}x"), "the new text")  # noqa: B023

    def test_a_directory_that_is_replaced_by_a_rename(self, make_host: MakeHost) -> None:
        host = self.waiting(make_host)
        place = host.cluster_env.parent
        for turn in range(3):
            new = place.with_name("new")
            new.mkdir()
            (new / "sidecar.env").write_text(f"ISTIO_INBOUND_PORTS=9{turn}x\n")
            place.rename(place.with_name(f"conf.{turn}"))
            new.rename(place)
            eventually(lambda: self.sees(host, f"9{turn}x"), "the new text")  # noqa: B023

    def test_links_that_are_swapped_as_in_a_mounted_config_map(self, make_host: MakeHost) -> None:
        host = make_host()
        place = host.directory / "conf"
        place.mkdir()
        host.cluster_env, host.sidecar_env = place / "cluster.env", place / "sidecar.env"

        def publish(turn: int, ports: str) -> None:
            data = place / f"..{turn}"
            data.mkdir()
            (data / "cluster.env").write_text(f"CA_ADDR={CLUSTER}:15012\n")
            (data / "sidecar.env").write_text(f"ISTIO_INBOUND_PORTS={ports}\n")
            link = place / "..data_tmp"
            link.symlink_to(data.name)
            link.rename(place / "..data")

        publish(0, "8080")
        for name in ("cluster.env", "sidecar.env"):
            (place / name).symlink_to(f"..data/{name}")
        host.start()
        eventually(lambda: "no envoy found" in host.log_text(), "it runs")
        for turn in range(1, 5):
            publish(turn, f"9{turn}x")
            eventually(lambda: self.sees(host, f"9{turn}x"), "the new text")  # noqa: B023
            shutil.rmtree(place / f"..{turn - 1}")

    def test_without_any_inotify_the_agent_goes_on(self, make_host: MakeHost) -> None:
        host = make_host()
        configure(host)
        refusal.without_inotify(host.start)
        eventually(lambda: "no envoy found" in host.log_text(), "it runs")
        mend = "sysctl -w fs.inotify.max_user_instances="
        eventually(lambda: mend in host.verb("status", is_checked=False).stdout, "it says why")
        host.write_sidecar("ISTIO_INBOUND_PORTS=9x\n")
        eventually(lambda: self.sees(host, "9x"), "the files are looked at")
        assert host.verb("reload", is_checked=False).returncode == 78
        assert is_alive(host)


@pytest.mark.envoy
class TestIdentity:
    def test_settings_that_change_while_the_worker_asks(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        host = make_host(envoy=envoy)
        authority.mode = "mute"
        configure(host)
        host.start()
        eventually(lambda: "first certificate" in summary(host), "it asks")
        host.write_token(authority.token("system:serviceaccount:other:default"))
        configure(host, POD_NAMESPACE="other")
        authority.mode = "ok"
        eventually(lambda: "/ns/other/" in host.status()["certificate"]["identity"], "asked")

    def test_an_identity_that_the_ca_refuses_takes_nothing_away(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        configure(host, POD_NAMESPACE="other")
        # Its token may still be on its way.
        eventually(lambda: "rejected" in summary(host), "the refusal")
        eventually(lambda: host.status()["in_mesh"], "in the mesh as before")
        host.kill()
        host.start()
        host.verb("wait", "--timeout", "60")


@pytest.mark.envoy
class TestCertificateFiles:
    def test_what_somebody_removed_is_there_again_without_the_ca(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        serial = host.status()["certificate"]["serial"]
        authority.stop()
        for path in host.certs.iterdir():
            path.unlink()
        names = {"key.pem", "cert-chain.pem", "root-cert.pem"}
        eventually(lambda: names <= {each.name for each in host.certs.iterdir()}, "they are back")
        eventually(lambda: host.status()["in_mesh"], "in the mesh")
        assert host.status()["certificate"]["serial"] == serial

    def test_a_key_that_somebody_replaced_is_not_held_any_more(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        serial = host.status()["certificate"]["serial"]
        (host.certs / "new").write_text("somebody's")
        (host.certs / "new").rename(host.certs / "key.pem")
        eventually(lambda: (host.certs / "key.pem").is_symlink(), "ours again")
        eventually(lambda: host.status()["in_mesh"], "in the mesh")
        assert host.status()["certificate"]["serial"]
        assert host.verb("renew").returncode == 0
        assert host.status()["certificate"]["serial"] != serial


@pytest.mark.envoy
class TestExpiry:
    def test_a_ca_that_comes_back_too_late(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        authority.life_s = 4.0
        host = make_host(envoy=envoy)
        join(host)
        authority.stop()
        eventually(lambda: not host.status()["in_mesh"], "the certificate has expired")
        assert host.tables() == TABLES
        authority.life_s = None
        authority.start()
        eventually(lambda: host.status()["in_mesh"], "by the token")


@pytest.mark.envoy
class TestFights:
    def test_a_table_that_somebody_deletes_all_the_time(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        assert host.agent is not None
        before = cpu_s(host.agent.pid)
        loop = "while :; do nft delete table inet istio_hostagent 2>/dev/null; sleep 0.005; done"
        fighter = host.namespace.popen(["sh", "-c", loop])
        try:
            eventually(lambda: "nft keeps" in summary(host), "the culprit")
            time.sleep(5)
        finally:
            os.killpg(fighter.pid, signal.SIGKILL)  # with the nft that it has started
            fighter.wait(60)
        assert cpu_s(host.agent.pid) - before < 5.0
        host.verb("wait", "--timeout", "40")
        assert host.tables() == TABLES

    def test_stop_during_a_fight_leaves_nothing(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        join(host)
        loop = (
            "nft add table inet other; while :; do nft add chain inet other c; "
            "nft delete chain inet other c; done"
        )
        fighters = [host.namespace.popen(["sh", "-c", loop]) for _ in range(3)]
        try:
            eventually(lambda: "other" in host.tables(), "the fight has begun")
            host.stop()
        finally:
            for fighter in fighters:
                fighter.kill()
                fighter.wait(10)
        assert not host.tables() & TABLES


def cpu_s(pid: int) -> float:
    """User and system time of a process and its reaped children (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def switches(pid: int) -> int:
    """How often the deciding thread has gone to sleep (proc(5))."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.envoy
class TestOddHosts:
    def test_a_host_without_a_proxy_sleeps(self, make_host: MakeHost) -> None:
        host = make_host()
        configure(host)
        host.start()
        eventually(lambda: "no envoy found" in host.log_text(), "it runs")
        assert host.agent is not None
        pid = host.agent.pid

        def sleeps() -> bool:
            before = switches(pid)
            time.sleep(3)
            return switches(pid) - before < 5

        eventually(sleeps, "it sleeps")

    def test_ipv6_switched_off(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        for name in ("all", "default", "lo"):
            host.namespace.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "1")
        join(host)
        assert host.verb("verify").returncode == 0

    def test_no_default_route(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        host.namespace.ip("route", "del", "default")
        join(host)
        assert host.verb("verify").returncode == 0

    def test_ten_thousand_ranges(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        many = ",".join(
            f"172.{16 + n // 4096}.{n // 16 % 256}.{n % 16 * 16}/29" for n in range(10_000)
        )
        join(host, ISTIO_SERVICE_CIDR=f"10.78.0.0/24,{many}")
        assert host.verb("verify").returncode == 0


@pytest.mark.envoy
def test_reloads_renewals_and_restarts_leave_no_descriptor_open(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    assert host.agent is not None
    descriptors = Path(f"/proc/{host.agent.pid}/fd")

    def count() -> int:
        return len(list(descriptors.iterdir()))

    host.verb("reload")
    before = count()
    for turn in range(12):
        host.write_sidecar(f"ISTIO_INBOUND_PORTS=8080,9{turn:03}\n")
        host.verb("reload")
        host.verb("renew")
        host.verb("verify")
        starts = host.status()["proxy"]["starts"]
        if turn < 4:
            os.kill(host.status()["proxy"]["pid"], signal.SIGKILL)
            eventually(lambda: host.status()["proxy"]["starts"] > starts, "restart")  # noqa: B023
            host.verb("wait", "--timeout", "60")
    eventually(lambda: count() <= before, "as many as before")


@pytest.mark.envoy
def test_a_storm_of_renames_is_over_when_it_is_over(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    join(host)
    for turn in range(400):
        good = turn % 2
        host.write_sidecar(f"ISTIO_INBOUND_PORTS={'8080,9090' if good else '8080,90900'}\n")
        time.sleep(0.005)
    begun = time.monotonic()
    eventually(lambda: "9090" in rules(host), "the last text")
    eventually(lambda: host.status()["in_mesh"], "in the mesh")
    eventually(lambda: host.status()["configuration"]["problems"] == [], "the last text counts")
    # A second on a quiet machine.
    assert time.monotonic() - begun < 60
