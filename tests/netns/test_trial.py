"""A changed configuration on a host that works, as far as real proxies, files and a CA decide it.

Everything else that can happen to one is in tests/agent/test_trial.py, in milliseconds.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.ca_server import DemoAuthority
from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure, join
from tests.netns.test_agent import TABLES

# In scripts: `$2` is the bootstrap, and 15101 is only in the changed one.
VALIDATED = 'case "$*" in *validate*) if grep -q 15101 "$2"; then {}; fi;; esac'
# Good when it is checked, and of no use afterwards.
ENDING = 'case "$*" in *validate*) ;; *) if grep -q 15101 "$2"; then {}; fi;; esac'

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
    host = make_host(envoy=scripted(VALIDATED.format('echo "do not like it"; exit 1')))
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


def test_a_proxy_that_ends_at_once_gives_way_to_the_one_before(
    make_host: MakeHost, scripted: Scripted, place: Path
) -> None:
    switch = place / "switch"
    switch.touch()
    ending = ENDING.format(f'[ -e {switch} ] && echo "cannot go on" && exit 1')
    host = make_host(envoy=scripted(ending))
    join(host)
    configure(host, ENVOY_PORT="15101")
    answer = host.verb("reload", is_checked=False)
    assert answer.returncode == 78, answer.stdout
    assert "cannot go on" in answer.stderr
    assert str(host.cluster_env) in answer.stderr
    eventually(lambda: is_in_mesh(host), "the one before serves again")
    assert host.tables() == TABLES

    # Neither a restart nor a touched file tries it again, or forgets what has worked.
    accepted = (host.state / "accepted.json").read_text()
    for _ in range(2):
        host.kill()
        host.start()
        host.verb("wait", "--timeout", "60")
        host.token.touch()
    assert (host.state / "accepted.json").read_text() == accepted
    assert "15101" not in accepted
    assert "rejected" in host.status()["summary"]
    assert host.status()["proxy"]["starts"] == 1
    switch.unlink()
    assert host.verb("reload").returncode == 0
    assert host.status()["configuration"]["problems"] == []


def test_a_port_that_somebody_has_is_no_verdict_and_is_taken_when_it_is_free(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    with host.namespace.bind("127.0.0.1", 15101) as taken:
        taken.listen()
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_STATUS_PORT="15101")
        answer = host.verb("reload", is_checked=False)
        assert answer.returncode == 75, answer.stdout
        assert "15101" in answer.stderr
        eventually(lambda: is_in_mesh(host), "the one before serves again")
        assert "15101" not in (host.state / "accepted.json").read_text()
    # That it is tried again by itself is in tests/agent/test_trial.py.
    assert host.verb("reload").returncode == 0
    assert "15101" in (host.state / "accepted.json").read_text()


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


def test_the_identity_of_before_comes_back_with_the_configuration(
    make_host: MakeHost, envoy: str, authority: DemoAuthority
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    serial = host.status()["certificate"]["serial"]
    host.write_token(authority.token("system:serviceaccount:other:other"))
    with host.namespace.bind("127.0.0.1", 15101) as taken:
        taken.listen()
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_STATUS_PORT="15101")
        configure(host, ISTIO_NAMESPACE="other", SERVICE_ACCOUNT="other")
        # 75: who has the port may go away, so it is tried again, and fails again.
        assert host.verb("reload", is_checked=False).returncode == 75
        assert len(authority.seen) >= 2, "the other identity was obtained"

        def has_come_back() -> bool:
            report = host.status()
            return bool(report["in_mesh"] and report["certificate"]["serial"] == serial)

        eventually(has_come_back, "the one before works")


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
