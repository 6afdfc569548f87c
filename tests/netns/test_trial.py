"""A configuration is on trial until it has worked: what the host does until then, and if not."""

import os
from pathlib import Path

import pytest

from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure, join
from tests.netns.test_agent import TABLES


@pytest.fixture
def picky(envoy: str, tmp_path: Path) -> str:
    """A real Envoy that finds each bootstrap invalid in which port 15101 is."""
    program = tmp_path / "envoy"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *validate*) ! grep -q 15101 "$2" ||'
        f' {{ echo "do not like it"; exit 1; }};; esac\nexec {envoy} "$@"\n'
    )
    program.chmod(0o755)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        os.chmod(parent, 0o755)
    return str(program)


def test_what_comes_with_a_refused_bootstrap_touches_neither_rules_nor_proxy(
    make_host: MakeHost, picky: str
) -> None:
    host = make_host(envoy=picky)
    join(host)
    listing = [
        "nft",
        "-s",
        "-a",
        "list",
        "ruleset",
    ]  # with handles: what was replaced has other ones
    rules, proxy = host.namespace.run(listing).stdout, host.status()["proxy"]
    configure(host, ENVOY_PORT="15101", ISTIO_SERVICE_CIDR="10.99.0.0/16")
    answer = host.verb("reload", is_checked=False)
    assert answer.returncode == 78, answer.stdout
    assert "do not like it" in answer.stderr
    eventually(lambda: host.status()["in_mesh"], "all as before")
    assert host.namespace.run(listing).stdout == rules
    assert host.status()["proxy"] == proxy
    assert "not kept" in host.status()["summary"]


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
        eventually(lambda: host.status()["in_mesh"], "the one before serves again")
        assert host.tables() == TABLES
        host.kill()
        host.start()
        host.verb("wait", "--timeout", "20")
        assert "not kept" in host.status()["summary"]


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
