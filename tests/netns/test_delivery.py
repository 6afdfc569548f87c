"""A real agent that hands its certificate on, or takes one that somebody else renews."""

import json
import os
import pwd
import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509

from tests.demo import ca_material
from tests.demo.ca_server import DemoAuthority
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure
from tests.netns.test_pilot_agent import STAND_IN

WEB = "spiffe://cluster.local/web"
DAEMON = pwd.getpwnam("daemon")
HOOK = """#!/bin/sh
echo "$(id -u) $ISTIO_HOSTAGENT_SERIAL $ISTIO_HOSTAGENT_CERTS $*" >> {out}
"""


def make(make_host: MakeHost, **keys: str) -> Host:
    """A host with a stand-in for pilot-agent, and a directory of istio-proxy's for the hook."""
    host = make_host()
    bin_base = host.directory / "bin"
    (bin_base / "out").mkdir(parents=True)
    os.chown(bin_base / "out", *proxy_user())
    (bin_base / "pilot-agent").write_text(STAND_IN)
    (bin_base / "hook").write_text(HOOK.format(out=bin_base / "out" / "told"))
    for program in ("pilot-agent", "hook"):
        (bin_base / program).chmod(0o755)
    host.write_hostagent(ISTIO_HOSTAGENT_PROXY="auto", ISTIO_BIN_BASE=str(bin_base), **keys)
    return host


def told(host: Host) -> list[list[str]]:
    path = host.directory / "bin" / "out" / "told"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def said(host: Host) -> str:
    """What `status` says, also while no agent answers yet."""
    return host.verb("status", is_checked=False).stdout


def serial_in(path: Path) -> str:
    leaf = ca_material.split(path.read_bytes())[0]
    assert isinstance(leaf, x509.Certificate)
    return f"{leaf.serial_number:x}"


def test_each_renewal_is_written_for_others_and_told(make_host: MakeHost) -> None:
    host = make(make_host)
    combined, certificates = host.directory / "mesh.pem", host.directory / "set"
    with host.hostagent_env.open("a") as out:
        out.write(f'ISTIO_HOSTAGENT_OUTPUTS="pem:{combined},owner=daemon,mode=0440 ')
        out.write(f'files:{certificates}"\n')
        out.write(f"ISTIO_HOSTAGENT_RENEW_HOOK=\"{host.directory}/bin/hook 'a b'\"\n")
    configure(host)
    host.start()
    host.verb("wait", "--timeout", "60")
    eventually(lambda: len(told(host)) == 1, "the hook")
    first = host.status()["certificate"]["serial"]
    uid, _ = proxy_user()
    assert told(host) == [[str(uid), first, str(host.certs), "a", "b"]]
    assert serial_in(combined) == first
    status = combined.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o440, DAEMON.pw_uid)
    host.verb("renew")
    eventually(lambda: len(told(host)) == 2, "the hook again")
    second = host.status()["certificate"]["serial"]
    assert second != first
    assert {serial_in(combined), serial_in(certificates / "cert-chain.pem")} == {second}
    eventually(lambda: host.status()["renew_hook"]["state"] == "done", "the hook has ended")
    assert host.status()["outputs"]["state"] == "written"
    assert "PRIVATE KEY" not in host.log_text()

    shown = json.loads(host.verb("cert", "--json").stdout)
    assert (shown["fits"], shown["chain"][0]["serial"]) == (True, second)
    assert shown["directory"] == str(host.certs)
    assert shown["next_attempt"] is not None
    host.verb("cert", "--check", str(certificates))
    host.kill()
    host.start()
    host.verb("wait", "--timeout", "60")
    assert len(told(host)) == 2


def test_a_certificate_that_somebody_else_renews_takes_a_host_into_the_mesh(
    make_host: MakeHost, tmp_path: Path, authority: DemoAuthority
) -> None:
    host = make(make_host)
    mounted = host.directory / "mounted"
    own = host.hostagent_env.read_text().replace(str(host.certs), str(mounted))
    host.hostagent_env.write_text(f"{own}FILE_MOUNTED_CERTS=true\nPROV_CERT={mounted}\n")
    host.token.unlink()
    material = ca_material.create(tmp_path / "other")

    def put() -> str:
        """As a program does it that writes one file after another, in place."""
        mounted.mkdir(exist_ok=True)
        chain, key = ca_material.pair(material, WEB, life_s=3600.0)
        for name, data in (
            ("key.pem", key),
            ("cert-chain.pem", chain),
            ("root-cert.pem", material.root_bundle),
        ):
            (mounted / name).write_bytes(data)
            os.chown(mounted / name, *proxy_user())
            (mounted / name).chmod(0o600)
        return serial_in(mounted / "cert-chain.pem")

    configure(host)
    host.start()
    eventually(lambda: str(mounted) in said(host), "what is missing")
    first = put()
    host.verb("wait", "--timeout", "60")
    certificate = host.status()["certificate"]
    assert (certificate["serial"], certificate["identity"]) == (first, WEB)
    copy = host.state / "mounted"
    assert (certificate["renewed_in"], certificate["directory"]) == (str(mounted), str(copy))
    credentials = host.runtime.glob("*.proxy/pilot-agent/var/run/secrets/*credentials")
    assert [serial_in(path / "cert-chain.pem") for path in credentials] == [first]
    second = put()
    eventually(lambda: host.status()["certificate"]["serial"] == second, "the renewed one")
    assert serial_in(copy / "cert-chain.pem") == second
    assert not any(path.is_symlink() for path in mounted.iterdir())
    (mounted / "key.pem").unlink()
    eventually(lambda: f"{mounted}/key.pem does not exist" in said(host), "what is missing")
    assert host.status()["in_mesh"]
    assert serial_in(copy / "cert-chain.pem") == second
    shutil.rmtree(mounted)
    host.kill()
    host.start()
    host.verb("wait", "--timeout", "60")
    assert host.status()["certificate"]["serial"] == second


@pytest.mark.parametrize("kind", ["pem", "files"])
def test_a_place_that_others_can_change_is_refused_and_named(
    make_host: MakeHost, kind: str
) -> None:
    host = make(make_host)
    theirs = host.directory / "theirs"
    theirs.mkdir()
    os.chown(theirs, DAEMON.pw_uid, DAEMON.pw_gid)
    with host.hostagent_env.open("a") as out:
        out.write(f"ISTIO_HOSTAGENT_OUTPUTS={kind}:{theirs}/mesh\n")
    configure(host)
    host.start()
    host.verb("wait", "--timeout", "60")
    eventually(lambda: host.status()["outputs"]["state"] == "failed", "refused")
    assert f"{theirs} belongs to daemon" in host.verb("status").stdout
    assert os.listdir(theirs) == []
