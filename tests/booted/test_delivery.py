"""The certificate for other programs, and the hook, under the unit's sandbox."""

import json
from typing import Any

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh

# Its reload says so; as root, or it could not write there.
READER = """[Service]
ExecStart=/usr/bin/sleep infinity
ExecReload=/usr/bin/touch /run/reader-reloaded
"""
OUTPUTS = (
    "pem:/etc/mesh.pem,owner=daemon,mode=0400 files:/srv/mesh,group=mail"
    " pkcs12:/var/lib/mesh.p12,password-file=/etc/mesh.password"
)


def part(machine: machines.Machine, name: str) -> dict[str, Any]:
    status = json.loads(machine.run("istio-hostagent", "status", "--json", check=False).stdout)
    return dict(status[name])


def set_key(machine: machines.Machine, line: str) -> None:
    machine.write(mesh.HOSTAGENT_ENV, machine.read(mesh.HOSTAGENT_ENV) + line + "\n")


@pytest.fixture
def joined(machine: machines.Machine, ca: mesh.Authority) -> machines.Machine:
    mesh.join(machine, ca)
    return machine


def test_outputs_have_their_owners_and_a_purge_takes_them_away(joined: machines.Machine) -> None:
    joined.write("/etc/mesh.password", "changeit\n", mode="0600")
    set_key(joined, f'ISTIO_HOSTAGENT_OUTPUTS="{OUTPUTS}"')
    network.wait_until(lambda: part(joined, "outputs")["state"] == "written", "written")
    stat = ["stat", "-L", "-c", "%U %G %a"]
    assert joined.run(*stat, "/etc/mesh.pem").stdout == "daemon daemon 400\n"
    assert joined.run(*stat, "/srv/mesh/key.pem").stdout == "root mail 640\n"
    assert joined.run(*stat, "/var/lib/mesh.p12").stdout == "root root 600\n"
    before = joined.read("/etc/mesh.pem")
    joined.run("istio-hostagent", "renew")
    network.wait_until(lambda: joined.read("/etc/mesh.pem") != before, "written anew")
    joined.run("istio-hostagent", "cert", "--check", "/srv/mesh")
    joined.run("apt-get", "purge", "-y", "istio-hostagent")
    for path in ("/etc/mesh.pem", "/srv/mesh", "/var/lib/mesh.p12"):
        assert not joined.exists(path)
    assert joined.exists("/etc/mesh.password")


def test_a_unit_is_reloaded_and_a_command_runs_as_istio_proxy(joined: machines.Machine) -> None:
    joined.write("/etc/systemd/system/reader.service", READER)
    joined.run("systemctl", "daemon-reload")
    joined.run("systemctl", "start", "reader.service")
    set_key(joined, "ISTIO_HOSTAGENT_RENEW_HOOK=unit:reader.service")
    network.wait_until(lambda: joined.exists("/run/reader-reloaded"), "told of what is held")
    joined.run("rm", "/run/reader-reloaded")
    joined.run("istio-hostagent", "renew")
    network.wait_until(lambda: joined.exists("/run/reader-reloaded"), "reloaded")
    joined.run("systemctl", "stop", "reader.service")
    joined.run("istio-hostagent", "renew")
    network.wait_until(lambda: part(joined, "renew_hook")["state"] == "done", "left alone")
    set_key(joined, 'ISTIO_HOSTAGENT_RENEW_HOOK="/usr/bin/id -un"')
    network.wait_until(lambda: part(joined, "renew_hook")["state"] == "done", "the command")
    set_key(joined, "ISTIO_HOSTAGENT_RENEW_HOOK=\"/bin/sh -c 'id -un >&2; exit 3'\"")
    joined.run("istio-hostagent", "reload")
    joined.run("istio-hostagent", "renew")
    network.wait_until(lambda: part(joined, "renew_hook")["state"] == "failed", "failed")
    assert "istio-proxy" in part(joined, "renew_hook")["last_error"]
    assert part(joined, "renew_hook")["failures"] == 1
    assert json.loads(joined.run("istio-hostagent", "status", "--json").stdout)["in_mesh"]
