"""The agent on a host of its own: real rules, real packets, the demo CA and a real Envoy."""

import contextlib
import fcntl
import json
import os
import signal
import ssl
from pathlib import Path

import pytest

from istio_hostagent.host import control
from tests.demo.ca_server import DemoAuthority
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import CLUSTER, MakeHost, configure, join, stand_in

TABLES = {"istio_hostagent", "istio_guard"}


def pair_matches(certs: Path) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certs / "cert-chain.pem", certs / "key.pem")
    except (ssl.SSLError, FileNotFoundError):
        return False
    return True


def has_our_address(host: Host) -> bool:
    return "::6/128" in host.namespace.run(["ip", "address"], check=True).stdout


@pytest.mark.envoy
class TestJoining:
    def test_from_two_files_to_in_the_mesh(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        host.start()
        eventually(lambda: "waiting for" in host.log_text(), "says what it waits for")
        assert host.status()["in_control"]
        assert not host.status()["in_mesh"]
        assert host.tables() == set()

        configure(host)
        host.verb("wait", "--timeout", "60")
        report = host.status()
        assert report["version"] == 1
        assert report["in_mesh"]
        assert report["joined"]
        assert report["certificate"]["identity"] == "spiffe://cluster.local/ns/default/sa/default"
        assert host.tables() == TABLES
        assert host.verb("verify").returncode == 0
        assert pair_matches(host.certs)

    def test_a_refused_token_leaves_the_network_as_it_was(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        host = make_host(envoy=envoy)
        host.write_token(authority.token("system:serviceaccount:default:default", audiences=["x"]))
        before = host.namespace.run(["ip", "address"]).stdout
        configure(host)
        host.start()
        authority.wait_for_calls(1)
        eventually(
            lambda: bool(host.status()["certificate"]["last_error"]), "the refusal is shown"
        )
        assert host.tables() == set()
        assert host.namespace.run(["ip", "address"]).stdout == before
        assert "token" in host.status()["summary"]

        host.write_token(authority.token("system:serviceaccount:default:default"))
        host.verb("wait", "--timeout", "60")

    @pytest.mark.parametrize("closed", ["token", "root", "directory", "directory above"])
    def test_a_credential_that_istio_proxy_may_not_read_is_noticed_once_it_may(
        self, make_host: MakeHost, envoy: str, closed: str
    ) -> None:
        """The order of Istio's own guides: the files first, then the service, then chown."""
        host = make_host(envoy=envoy)
        place = host.directory / "secrets" / "tokens"
        place.mkdir(parents=True)
        path = place / "istio-token"
        path.write_text(host.token.read_text())
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_TOKEN_FILE=str(path))
        os.chown(path, *proxy_user())
        blamed = {"token": path, "root": host.root, "directory": place}.get(closed, place.parent)
        os.chown(blamed, 0, 0)
        blamed.chmod(0o700 if blamed.is_dir() else 0o600)
        configure(host)
        host.start()
        mend = f"chmod o+x {blamed}" if blamed.is_dir() else f"chown {host.proxy_name} {blamed}"
        eventually(lambda: mend in host.log_text(), "who must be able to read what")
        assert f"by {host.proxy_name}" in host.status()["summary"]
        assert host.status()["certificate"]["failures"] == 1
        if blamed.is_dir():
            blamed.chmod(0o711)
        else:
            os.chown(blamed, *proxy_user())
        # The next attempt by the clock alone would be five minutes later.
        host.verb("wait", "--timeout", "60")

    def test_a_state_directory_that_is_closed_to_istio_proxy_is_named(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        """As after `chmod 700 /var/lib/*`, which some guides to hardening have."""
        host = make_host(envoy=envoy)
        host.state.mkdir(mode=0o700)
        configure(host)
        host.start()
        eventually(lambda: f"chmod o+x {host.state}" in host.log_text(), "what mends it")
        host.state.chmod(0o711)
        host.verb("reload")
        host.verb("wait", "--timeout", "60")

    def test_a_missing_proxy_is_named_and_its_arrival_noticed(
        self, make_host: MakeHost, envoy: str, tmp_path: Path
    ) -> None:
        host = make_host()
        place = host.directory / "bin" / "envoy"
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=str(place))
        configure(host)
        host.start()
        eventually(lambda: str(place) in host.log_text(), "the place searched is named")
        assert host.tables() == set()
        place.parent.mkdir()
        os.link(envoy, place)
        host.verb("wait", "--timeout", "60")

    def test_a_proxy_that_is_never_ready_gets_the_rules_taken_out_again(
        self, make_host: MakeHost
    ) -> None:
        host = make_host()
        stand_in(host, "exec sleep 600")
        configure(host)
        host.start()
        eventually(lambda: host.tables() == TABLES, "the attempt")
        eventually(lambda: host.tables() == set(), "the way back")
        assert not host.status()["joined"]
        eventually(lambda: "could not join" in host.log_text(), "it is said")
        # In time for the next attempt the host is as it was: no proxy, no address of ours.
        eventually(lambda: not has_our_address(host), "the address is gone")


@pytest.mark.envoy
class TestStaying:
    def test_a_guard_that_is_deleted_or_loaded_again_leaves_the_host_in_the_mesh(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        eventually(lambda: (host.state / "guard.nft").exists(), "the file of early boot")
        said = len(host.log_text())
        for times in range(1, 4):
            host.namespace.run(["nft", "delete", "table", "inet", "istio_guard"], check=True)
            eventually(lambda: host.tables() == TABLES, "the guard is back")
            assert host.status()["redirection"]["repaired"] == times
            host.namespace.run(["nft", "-f", str(host.state / "guard.nft")], check=True)
        report = host.status()
        assert (report["in_mesh"], report["redirection"]["state"]) == (True, "proven")
        assert "degraded" not in host.log_text()[said:]
        assert "CULPRIT=nft[" in host.log_text()[said:]

    def test_flushed_rules_come_back_and_the_culprit_is_named(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        host.namespace.run(["nft", "flush", "ruleset"], check=True)
        eventually(lambda: host.status()["redirection"]["repaired"] == 1, "repaired")
        eventually(lambda: host.status()["in_mesh"], "in the mesh again")
        eventually(lambda: "CULPRIT=nft[" in host.log_text(), "the culprit is named")
        assert host.tables() == TABLES

    def test_an_address_that_somebody_took_off_comes_back_with_a_reload(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        host.namespace.ip("address", "del", "::6/128", "dev", "lo")
        host.verb("reload")
        assert "::6/128" in host.namespace.run(["ip", "address"]).stdout
        eventually(lambda: host.status()["in_mesh"], "proven again")

    def test_a_changed_file_takes_effect_by_itself_and_nothing_restarts(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        before = host.status()
        host.write_sidecar("ISTIO_INBOUND_PORTS=8080,9090\n")
        listing = ["nft", "list", "table", "inet", "istio_hostagent"]
        eventually(lambda: "9090" in host.namespace.run(listing).stdout, "the new port")
        eventually(lambda: host.status()["in_mesh"], "in the mesh")
        after = host.status()
        assert after["proxy"]["pid"] == before["proxy"]["pid"]
        assert after["certificate"]["serial"] == before["certificate"]["serial"]

    def test_a_bad_file_changes_nothing_and_is_named_with_its_line(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        before = host.namespace.run(["nft", "-s", "list", "ruleset"]).stdout
        host.write_sidecar("# ports\nISTIO_INBOUND_PORTS=8080,90900\n")
        done = host.verb("reload", is_checked=False)
        assert done.returncode == 78
        assert f"{host.sidecar_env}:2" in done.stderr
        for verb in ("plan", "apply"):
            assert host.verb(verb, is_checked=False).returncode == 78
        assert host.namespace.run(["nft", "-s", "list", "ruleset"]).stdout == before
        assert host.status()["in_mesh"]
        assert host.status()["configuration"]["state"] == "kept"

        host.stop(signal.SIGKILL)
        host.start()
        host.verb("wait", "--timeout", "60")
        assert host.namespace.run(["nft", "-s", "list", "ruleset"]).stdout == before

        host.write_sidecar("ISTIO_INBOUND_PORTS=8080\n")
        assert host.verb("reload").returncode == 0
        assert host.status()["configuration"]["problems"] == []

    def test_an_accepted_file_that_is_gone_stays_in_force(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        host.cluster_env.unlink()
        eventually(lambda: "is gone" in host.status()["summary"], "the loss is shown")
        host.stop(signal.SIGKILL)
        host.start()
        host.verb("wait", "--timeout", "60")
        assert host.tables() == TABLES

    def test_renewal_changes_the_certificate_and_nothing_else(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        host.token.unlink()
        before = host.status()
        assert host.verb("renew").returncode == 0
        after = host.status()
        assert after["certificate"]["serial"] != before["certificate"]["serial"]
        assert after["proxy"]["pid"] == before["proxy"]["pid"]
        assert authority.seen[-1].how == "certificate"

    def test_another_directory_for_certificates_gives_the_one_before_back(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        (host.certs / "root-cert.pem").write_text("an operator's\n")
        join(host)
        assert pair_matches(host.certs)
        other = host.directory / "other"
        other.mkdir()
        os.chown(other, *proxy_user())
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, OUTPUT_CERTS=str(other))
        eventually(lambda: "given back" in host.log_text(), "the one before is given back")
        assert [each.name for each in host.certs.iterdir()] == ["root-cert.pem"]
        assert (host.certs / "root-cert.pem").read_text() == "an operator's\n"
        assert pair_matches(other)
        eventually(lambda: host.status()["in_mesh"], "in the mesh")

    def test_short_lived_certificates_renew_by_themselves(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        authority.life_s = 3.0
        host = make_host(envoy=envoy)
        join(host)
        authority.wait_for_calls(4)
        eventually(lambda: host.status()["in_mesh"], "in the mesh")

    def test_a_dead_ca_takes_nothing_away(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        authority.stop()
        done = host.verb("renew", is_checked=False)
        assert done.returncode == 75
        report = host.status()
        assert report["in_mesh"]
        assert report["certificate"]["last_error"]
        assert pair_matches(host.certs)

    def test_a_restart_does_not_wait_for_a_silent_ca_while_its_certificate_is_good(
        self, make_host: MakeHost, envoy: str, authority: DemoAuthority
    ) -> None:
        authority.life_s = 600.0
        host = make_host(envoy=envoy)
        join(host, SECRET_GRACE_PERIOD_RATIO="0.999")  # a renewal is due at once
        authority.mode = "mute"
        host.kill()
        host.start()
        host.verb("wait", "--timeout", "18")  # less than a call to the CA may take
        assert host.status()["proxy"]["state"] == "ready"

    def test_a_killed_proxy_is_started_again(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        join(host)
        os.kill(host.status()["proxy"]["pid"], signal.SIGKILL)
        eventually(lambda: host.status()["proxy"]["starts"] == 2, "the second start")
        host.verb("wait", "--timeout", "60")


@pytest.mark.envoy
class TestLeaving:
    def test_sigterm_takes_everything_out(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        join(host)
        proxy = host.status()["proxy"]["pid"]
        assert host.stop() == 0
        assert host.tables() == set()
        assert not Path(f"/proc/{proxy}").exists()
        assert not (host.state / "joined").exists()
        assert not has_our_address(host)

    def test_without_a_unit_sigterm_drains_with_the_rules_in_and_sigint_does_not(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_DRAIN="1h")
        join(host)
        assert host.agent is not None
        host.agent.send_signal(signal.SIGTERM)
        ready = ["curl", "-s", "-w", "%{http_code}", "http://127.0.0.1:15021/healthz/ready"]
        eventually(lambda: "503" in host.namespace.run(ready).stdout, "it says that it leaves")
        assert host.tables() == TABLES
        assert "connections are drained first" in host.status()["summary"]
        assert host.stop(signal.SIGINT) == 0
        assert host.tables() == set()

    def test_a_crash_keeps_the_rules_and_takes_the_proxy(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        proxy = host.status()["proxy"]["pid"]
        host.kill()
        eventually(lambda: not Path(f"/proc/{proxy}").exists(), "the proxy is gone")
        assert host.tables() == TABLES
        # Captured traffic is refused, never let around.
        reply = host.namespace.run(
            ["setpriv", "--reuid=65534", "--clear-groups", "curl", "-sS", f"http://{CLUSTER}:80/"]
        )
        assert reply.returncode == 7
        host.start()
        host.verb("wait", "--timeout", "60")


class TestVerbsWithoutAnAgent:
    def test_apply_verify_plan_and_clean_need_neither_ca_nor_proxy(
        self, make_host: MakeHost, authority: DemoAuthority
    ) -> None:
        authority.stop()
        host = make_host()
        configure(host)
        planned = host.verb("plan").stdout
        assert "+  tcp dport @inbound_ports" in planned
        assert host.tables() == set()
        assert host.verb("apply").stdout == planned
        assert host.tables() == TABLES
        assert host.verb("plan").stdout == ""
        verified = host.verb("verify")
        assert verified.returncode == 0
        assert "note: no proxy: " in verified.stdout and "ports 15001, 15006" in verified.stdout
        assert not (host.state / "joined").exists()

        host.namespace.run(
            ["nft", "insert", "rule", "inet", "istio_hostagent", "ISTIO_OUTPUT", "return"],
            check=True,
        )
        drifted = host.verb("verify", is_checked=False)
        assert drifted.returncode == 1
        assert "ISTIO_OUTPUT" in drifted.stdout
        assert "broken: " in drifted.stdout

        host.verb("apply")
        assert host.verb("verify").returncode == 0
        host.verb("clean")
        assert host.tables() == set()
        assert host.verb("verify", is_checked=False).returncode == 1

    def test_verify_of_a_host_that_joined_says_that_nobody_listens(
        self, make_host: MakeHost, envoy: str
    ) -> None:
        """Its rules are in and hold, and every captured connection fails."""
        host = make_host(envoy=envoy)
        join(host)
        assert json.loads(host.verb("verify", "--json").stdout)["proxy"]["state"] == "serving"
        host.kill()
        done = host.verb("verify", "--json", is_checked=False)
        found = json.loads(done.stdout)
        assert (done.returncode, found["in_place"]) == (1, False)
        assert (found["differences"], found["broken"]) == ([], [])
        assert found["proxy"]["required"]
        assert found["proxy"]["closed_ports"] == [15001, 15006]
        assert "\nno proxy: " in host.verb("verify", is_checked=False).stdout

    def test_verbs_that_need_an_agent_say_so(self, make_host: MakeHost) -> None:
        host = make_host()
        for words in (("status",), ("reload",), ("renew",), ("wait", "--timeout", "0.2")):
            done = host.verb(*words, is_checked=False)
            assert done.returncode == 75
            assert "no agent runs" in done.stderr

    def test_without_configuration_apply_names_the_file(self, make_host: MakeHost) -> None:
        host = make_host()
        done = host.verb("apply", is_checked=False)
        assert done.returncode == 78
        assert str(host.cluster_env) in done.stderr

    def test_an_unknown_verb_or_option_starts_nothing(self, make_host: MakeHost) -> None:
        host = make_host()
        for words in (("frobnicate",), ("run", "--frobnicate"), ("apply", "--dry")):
            assert host.verb(*words, is_checked=False).returncode == 64

    def test_clean_is_refused_while_an_agent_runs(self, make_host: MakeHost) -> None:
        host = make_host()
        host.start()
        eventually(lambda: "waiting for" in host.log_text(), "it runs")
        done = host.verb("clean", is_checked=False)
        assert done.returncode == 75
        assert "systemctl stop" in done.stderr

    def test_two_agents_in_two_namespaces_do_not_disturb_each_other(
        self, make_host: MakeHost
    ) -> None:
        one, two = make_host("one", number=21), make_host("two", number=22)
        configure(one)
        one.start()
        eventually(lambda: "no " in one.log_text(), "one runs")
        configure(two)
        two.verb("apply")
        assert two.tables() == TABLES
        assert one.tables() == set()
        assert one.stop() == 0
        assert two.verb("verify").returncode == 0

    def test_a_second_agent_in_the_same_namespace_is_refused(self, make_host: MakeHost) -> None:
        host = make_host()
        host.start()
        eventually(lambda: "waiting for" in host.log_text(), "it runs")
        done = host.verb("run", is_checked=False)
        assert done.returncode == 75
        assert "another agent" in done.stderr

    def test_an_agent_waits_for_a_verb_that_holds_the_lock(self, make_host: MakeHost) -> None:
        host = make_host()
        lock = Path(control.DIRECTORY) / f"{host.namespace.inode}.lock"
        lock.parent.mkdir(exist_ok=True)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            host.start()
            assert host.agent is not None
            files = f"/proc/{host.agent.pid}/fd"

            def has_opened() -> bool:
                with contextlib.suppress(FileNotFoundError):  # of what is closed meanwhile
                    return str(lock) in {os.readlink(f"{files}/{n}") for n in os.listdir(files)}
                return False

            eventually(has_opened, "it tries")
        eventually(lambda: "waiting for" in host.log_text(), "it runs")


def test_the_proxys_user_is_the_one_that_the_product_finds() -> None:
    assert proxy_user()[0] != 0


@pytest.mark.envoy
def test_a_host_whose_address_changed_still_captures_as_configured(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    host.namespace.ip("address", "del", "10.78.0.11/24", "dev", "eth0")
    host.namespace.ip("address", "add", "10.78.0.99/24", "dev", "eth0")
    host.namespace.ip("route", "add", "default", "via", CLUSTER)
    assert host.verb("verify").returncode == 0
    host.namespace.run(["nft", "flush", "ruleset"], check=True)
    eventually(lambda: host.status()["redirection"]["repaired"] == 1, "repaired")
    host.verb("wait", "--timeout", "60")


@pytest.mark.envoy
def test_rules_of_the_operators_own_are_said_to_be_untested(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    assert host.status()["redirection"]["managed"]
    host.write_sidecar("ISTIO_INBOUND_PORTS=8080\nISTIO_CUSTOM_IP_TABLES=true\n")
    what = "up to rules of your own, not tested (ISTIO_CUSTOM_IP_TABLES)"
    assert host.verb("reload").stdout.strip().endswith(f"; redirection: {what}")
    assert not host.status()["redirection"]["managed"]
    assert f"redirection    {what}" in host.verb("status").stdout
    assert host.tables() == set()
