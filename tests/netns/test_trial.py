"""A changed configuration on a host that works: what happens until it has worked, and if not."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.ca_server import DemoAuthority
from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import CLUSTER, MakeHost, configure, join
from tests.netns.test_agent import TABLES

# Somebody else's translation, before ours: what goes to this network cannot be captured.
THIEF = f"""
table inet thief {{
  chain early {{
    type nat hook output priority -150; policy accept;
    ip daddr 10.97.0.0/16 tcp dport 1-65535 dnat ip to {CLUSTER}:80
  }}
}}
"""
# In scripts: `$2` is the bootstrap, and 15101 is only in the changed one.
JUDGED = 'case "$*" in *validate*) if grep -q 15101 "$2"; then {}; fi;; esac'

Scripted = Callable[..., str]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in which every user may read and write."""
    with tempfile.TemporaryDirectory(prefix="hatest-trial-") as directory:
        os.chmod(directory, 0o777)
        yield Path(directory)


@pytest.fixture
def scripted(envoy: str, place: Path) -> Scripted:
    """A real Envoy behind some lines of shell."""

    def make(script: str) -> str:
        program = place / "envoy"
        program.write_text(f'#!/bin/sh\n{script}\nexec {envoy} "$@"\n')
        program.chmod(0o755)
        return str(program)

    return make


def main_rules(host: Host, *options: str) -> str:
    listing = ["nft", "-s", *options, "list", "table", "inet", "istio_hostagent"]
    return host.namespace.run(listing).stdout


def is_in_mesh(host: Host) -> bool:
    return bool(host.status()["in_mesh"])


def test_what_comes_with_a_refused_bootstrap_touches_neither_rules_nor_proxy(
    make_host: MakeHost, scripted: Scripted
) -> None:
    host = make_host(envoy=scripted(JUDGED.format('echo "do not like it"; exit 1')))
    join(host)
    # With handles: what was replaced has other ones.
    rules, proxy = main_rules(host, "-a"), host.status()["proxy"]
    configure(host, ENVOY_PORT="15101", ISTIO_SERVICE_CIDR="10.99.0.0/16")
    for verb in ("apply", "reload"):
        answer = host.verb(verb, is_checked=False)
        assert answer.returncode == 78, answer.stdout
        assert "do not like it" in answer.stderr
    assert is_in_mesh(host)
    assert main_rules(host, "-a") == rules
    assert host.status()["proxy"] == proxy
    assert "rejected" in host.status()["summary"]


def test_what_works_is_repaired_while_something_else_is_judged(
    make_host: MakeHost, scripted: Scripted, place: Path
) -> None:
    gate = place / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    host = make_host(envoy=scripted(JUDGED.format(f"touch {place}/asked; {wait}")))
    join(host)
    configure(host, ENVOY_PORT="15101")
    eventually((place / "asked").exists, "it is being judged")
    assert is_in_mesh(host)
    assert "being tried" in host.status()["summary"]
    host.namespace.run(["nft", "flush", "ruleset"])
    eventually(lambda: host.tables() == TABLES, "they are back", within_s=5)
    assert "15101" not in main_rules(host)
    gate.touch()
    eventually(lambda: "15101" in main_rules(host), "it has passed")
    eventually(lambda: is_in_mesh(host), "it works")


def test_a_start_with_changed_files_begins_with_the_rules_that_have_worked(
    make_host: MakeHost, scripted: Scripted, place: Path
) -> None:
    gate = place / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    host = make_host(envoy=scripted(JUDGED.format(wait)))
    join(host)
    host.kill()
    host.namespace.run(["nft", "flush", "ruleset"])
    configure(host, ENVOY_PORT="15101")
    host.start()
    host.verb("wait", "--timeout", "20")
    assert "15101" not in main_rules(host)
    gate.touch()
    eventually(lambda: "15101" in main_rules(host), "what the files say now")
    eventually(lambda: is_in_mesh(host), "it works")


def test_a_proxy_that_cannot_start_gives_way_to_the_one_before(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    with host.namespace.bind("127.0.0.1", 15101) as taken:
        taken.listen()
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_ADMIN_PORT="15101")
        answer = host.verb("reload", is_checked=False)
        assert answer.returncode == 78, answer.stdout
        assert str(host.hostagent_env) in answer.stderr
        eventually(lambda: is_in_mesh(host), "the one before serves again")
        assert host.tables() == TABLES

        # Neither a restart nor a touched file tries it again, or forgets what has worked.
        accepted = (host.state / "accepted.json").read_text()
        for _ in range(2):
            host.kill()
            host.start()
            host.verb("wait", "--timeout", "20")
            host.token.touch()
        assert (host.state / "accepted.json").read_text() == accepted
        assert "15101" not in accepted
        assert "rejected" in host.status()["summary"]
        assert host.status()["proxy"]["starts"] == 1
    assert host.verb("reload").returncode == 0
    assert host.status()["configuration"]["problems"] == []


def test_a_reload_that_changes_the_proxy_is_answered_when_the_new_one_serves(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    configure(host, ENVOY_PORT="15101")
    assert host.verb("reload").returncode == 0
    report = host.status()
    assert report["in_mesh"]
    assert report["configuration"]["problems"] == []
    with pytest.raises(OSError):
        host.namespace.bind("0.0.0.0", 15101)


def test_a_proxy_that_is_not_there_is_refused_where_one_serves(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    host.write_hostagent(ISTIO_HOSTAGENT_ENVOY="/nonexistent/envoy")
    configure(host, ENVOY_PORT="15101")
    answer = host.verb("reload", is_checked=False)
    assert answer.returncode == 78
    assert "/nonexistent/envoy" in answer.stderr
    assert is_in_mesh(host)
    assert "15101" not in main_rules(host)


def test_a_proxy_in_trouble_can_be_corrected(
    make_host: MakeHost, scripted: Scripted, place: Path
) -> None:
    broken = place / "broken"
    script = (
        f'case "$*" in *validate*) ;; *) if [ -e {broken} ] && ! grep -q 15101 "$2";'
        ' then echo "broken"; exit 1; fi;; esac'
    )
    host = make_host(envoy=scripted(script))
    join(host)
    broken.touch()
    os.kill(host.status()["proxy"]["pid"], signal.SIGKILL)
    eventually(lambda: host.status()["proxy"]["starts"] > 3, "it ends again and again")
    configure(host, ENVOY_PORT="15101")
    assert host.verb("reload").returncode == 0
    assert is_in_mesh(host)


def test_a_broken_proxy_does_not_keep_the_operator_from_capturing_less(
    make_host: MakeHost, scripted: Scripted, place: Path
) -> None:
    broken = place / "broken"
    host = make_host(envoy=scripted(f'[ ! -e {broken} ] || {{ echo "too old"; exit 127; }}'))
    join(host)
    broken.touch()
    host.kill()
    host.start()
    eventually(lambda: "too old" in host.log_text(), "what is wrong")
    configure(host, ISTIO_SERVICE_CIDR="10.97.0.0/16")
    answer = host.verb("reload", is_checked=False)
    assert answer.returncode == 75, "taken, and the host is not whole"
    assert "too old" in answer.stderr
    assert "10.97.0.0/16" in main_rules(host)
    assert "10.96" not in main_rules(host)


def test_trouble_of_the_rules_before_is_not_that_of_the_new_ones(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host, ISTIO_SERVICE_CIDR=f"{CLUSTER}/24,10.97.0.0/16")
    host.namespace.run(["nft", "-f", "-"], stdin=THIEF, check=True)
    eventually(lambda: "10.97" in host.status()["redirection"]["trouble"], "it is noticed")
    configure(host, ENVOY_PORT="15101", ISTIO_SERVICE_CIDR=f"{CLUSTER}/24")
    assert host.verb("reload").returncode == 0
    assert is_in_mesh(host)


def test_a_proxy_is_not_replaced_for_rules_that_do_not_hold(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    proxy = host.status()["proxy"]
    host.namespace.run(["nft", "-f", "-"], stdin=THIEF, check=True)
    configure(host, ENVOY_PORT="15101", ISTIO_SERVICE_CIDR="10.97.0.0/16")
    assert host.verb("reload", is_checked=False).returncode == 78
    eventually(lambda: is_in_mesh(host), "the one before works")
    assert host.status()["proxy"] == proxy


def test_the_identity_of_before_comes_back_with_the_configuration(
    make_host: MakeHost, envoy: str, authority: DemoAuthority
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    serial = host.status()["certificate"]["serial"]
    host.write_token(authority.token("system:serviceaccount:other:other"))
    with host.namespace.bind("127.0.0.1", 15101) as taken:
        taken.listen()
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_ADMIN_PORT="15101")
        configure(host, ISTIO_NAMESPACE="other", SERVICE_ACCOUNT="other")
        assert host.verb("reload", is_checked=False).returncode == 78
    eventually(lambda: is_in_mesh(host), "the one before works")
    assert len(authority.seen) == 2, "the other identity was obtained"
    assert host.status()["certificate"]["serial"] == serial


def test_what_serves_goes_on_while_a_silent_ca_is_asked_for_another_identity(
    make_host: MakeHost, envoy: str, authority: DemoAuthority
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    rules, proxy = main_rules(host, "-a"), host.status()["proxy"]
    authority.mode = "mute"
    configure(host, ENVOY_PORT="15101", SERVICE_ACCOUNT="other")
    eventually(lambda: host.status()["configuration"]["state"] == "trial", "it is being tried")
    # Another change meanwhile does not make the first one stay.
    configure(host, ENVOY_PORT="15102", SERVICE_ACCOUNT="other")
    eventually(lambda: "rejected" in host.status()["summary"], "given up", within_s=70)
    eventually(lambda: is_in_mesh(host), "the one before works")
    assert main_rules(host, "-a") == rules
    assert host.status()["proxy"] == proxy


# Listens like an ssh daemon of root.
SSHD = """
import socket, time
open("/proc/self/comm", "w").write("sshd")
with socket.create_server(("0.0.0.0", 2222)):
    time.sleep(600)
"""


def test_a_new_port_of_sshd_puts_no_half_of_a_trial_into_force(
    make_host: MakeHost, envoy: str, authority: DemoAuthority
) -> None:
    host = make_host(envoy=envoy)
    host.write_sidecar("ISTIO_INBOUND_PORTS=*\n")
    join(host)
    proxy = host.status()["proxy"]
    authority.mode = "mute"
    configure(host, ENVOY_PORT="15101", SERVICE_ACCOUNT="other")
    host.write_sidecar("ISTIO_INBOUND_PORTS=*\n")
    eventually(lambda: host.status()["configuration"]["state"] == "trial", "it is being tried")
    daemon = host.namespace.popen(["/usr/bin/python3", "-c", SSHD])
    try:
        assert host.agent is not None
        eventually(lambda: b"sshd" in Path(f"/proc/{daemon.pid}/comm").read_bytes(), "it is named")

        def is_seen() -> bool:
            assert host.agent is not None
            host.agent.send_signal(signal.SIGHUP)
            return "sshd has another port" in host.log_text()

        eventually(is_seen, "the port")
        eventually(lambda: "2222" in main_rules(host), "it is left alone")
        assert "15101" not in main_rules(host)
        assert host.status()["proxy"]["pid"] == proxy["pid"]
        assert host.status()["proxy"]["starts"] == 1
    finally:
        daemon.kill()
        daemon.wait()


def test_a_token_that_comes_after_the_file_that_needs_it_is_in_time(
    make_host: MakeHost, envoy: str, authority: DemoAuthority
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    configure(host, ISTIO_NAMESPACE="other", SERVICE_ACCOUNT="other")
    eventually(lambda: bool(host.status()["certificate"]["trouble"]), "the old token is no good")
    host.write_token(authority.token("system:serviceaccount:other:other"))
    eventually(
        lambda: host.status()["certificate"]["identity"].endswith("/ns/other/sa/other"),
        "the new one is taken",
    )
    eventually(lambda: host.status()["configuration"]["state"] == "accepted", "it works")
    assert is_in_mesh(host)


def test_a_proxy_that_hangs_gives_way_to_the_one_that_served(
    make_host: MakeHost, envoy: str, place: Path
) -> None:
    host = make_host()
    settings = {"ISTIO_HOSTAGENT_ENVOY": envoy, "ISTIO_BIN_BASE": str(place)}
    host.write_hostagent(ISTIO_HOSTAGENT_PROXY="auto", **settings)
    join(host)
    guard = (host.state / "guard.nft").read_text()
    (place / "pilot-agent").write_text("#!/bin/sh\nexec sleep 600\n")
    (place / "pilot-agent").chmod(0o755)
    host.write_hostagent(ISTIO_HOSTAGENT_PROXY="pilot-agent", **settings)
    configure(host, ISTIO_SERVICE_CIDR="10.99.0.0/16")
    eventually(lambda: "10.99" in main_rules(host), "it is being tried")
    # What a power cut would leave for the next boot fits what would be come back to.
    assert (host.state / "guard.nft").read_text() == guard
    assert host.status()["configuration"]["state"] == "trial"
    eventually(lambda: "rejected" in host.status()["summary"], "given up", within_s=70)
    eventually(lambda: is_in_mesh(host), "Envoy serves again")
    assert "10.99" not in main_rules(host)
    # Under `auto`, what served is what comes back.
    assert host.status()["proxy"]["kind"] == "envoy"


def test_a_pilot_agent_that_is_installed_does_not_replace_the_envoy_that_serves(
    make_host: MakeHost, envoy: str, place: Path
) -> None:
    host = make_host()
    host.write_hostagent(
        ISTIO_HOSTAGENT_PROXY="auto", ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_BIN_BASE=str(place)
    )
    join(host)
    (place / "pilot-agent").write_text("#!/bin/sh\nexec sleep 600\n")
    (place / "pilot-agent").chmod(0o755)
    assert host.verb("reload").returncode == 0
    assert is_in_mesh(host)
    assert host.status()["proxy"]["starts"] == 1


def test_files_of_others_among_the_proxys_own_are_no_reason_to_refuse(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    (files,) = host.directory.glob("run/*.proxy")
    (files / "envoy-notes.txt").write_text("somebody's\n")
    configure(host, ENVOY_PORT="15101")
    assert host.verb("reload").returncode == 0
    bootstraps = [each.read_text() for each in files.glob("envoy-*/envoy.json")]
    assert any("15101" in text for text in bootstraps)


def test_two_changes_at_once_end_with_the_second(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    join(host)
    configure(host, ENVOY_PORT="15101")
    configure(host, ENVOY_PORT="15102")
    host.write_sidecar("ISTIO_INBOUND_PORTS=8080,8082\n")
    assert host.verb("reload").returncode == 0
    assert is_in_mesh(host)
    assert "15102" in main_rules(host)
    assert "15101" not in main_rules(host)
    assert "8082" in main_rules(host)
