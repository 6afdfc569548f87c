"""docs/consul/compose.yaml: its processes are started here as they stand there."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import consul, layers, netns
from tests.lab.waiting import eventually
from tests.peers import build

DOCUMENTS = Path(__file__).parents[2] / "docs" / "consul"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCUMENTS / "compose.yaml").read_text())
OVERRIDE: dict[str, Any] = yaml.safe_load((DOCUMENTS / "compose.istiomesh.yaml").read_text())
# Of the classic page: today's programs do not know them, or are not made any more.
DEAD = ("--insecure-port", "--insecure-bind-address", "--registries", "--consulserverURL")
WITHIN_S = 120.0
ADDRESS = "172.28.0.13"


def test_it_is_of_the_form_that_compose_reads() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"keys", "etcd", "apiserver", "consul", "istiod"}
    volumes = {each.partition(":")[0] for one in services.values() for each in one["volumes"]}
    assert {each for each in volumes if not each.startswith(".")} == set(COMPOSE["volumes"])
    for each in services.values():
        assert re.fullmatch(r"[a-z0-9.]+/[a-z0-9/-]+:v?[0-9.]+", each["image"])
        assert set(each.get("depends_on", ())) <= set(services)
        assert not [word for word in each.get("command", ()) if word.startswith(DEAD)]
    assert set(OVERRIDE["services"]) < set(services)
    fixed = OVERRIDE["services"]["apiserver"]["networks"]["istiomesh"]["ipv4_address"]
    assert fixed == "172.28.0.13"
    assert f"IP:{fixed}" in (DOCUMENTS / "make-keys.sh").read_text()


def find(name: str, program: str) -> Path:
    path = build.directory(name) / program
    layers.require("interop", "" if os.access(path, os.X_OK) else f"needs {program}: make peers")
    return path


def command(service: str, program: Path, directory: Path) -> list[str]:
    """Its command line, with this program and paths of this machine."""
    words = COMPOSE["services"][service]["command"][1:]
    words = [re.sub(r"\$\{CONSUL_ADVERTISE:\?[^}]*\}", ADDRESS, word) for word in words]
    for inside in ("/keys", "/var/lib/etcd", "/consul/data"):
        words = [word.replace(inside, f"{directory}{inside}") for word in words]
    return [str(program), *words]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir()
    run = ["sh", str(DOCUMENTS / "make-keys.sh"), str(made)]
    subprocess.run(run, check=True, capture_output=True)
    before = {path: path.read_bytes() for path in made.iterdir()}
    subprocess.run(run, check=True, capture_output=True)
    assert {path: path.read_bytes() for path in made.iterdir()} == before
    return made


def test_every_service_starts_with_these_arguments(keys: Path, tmp_path: Path) -> None:
    del keys
    programs = {
        "etcd": find("kubernetes", "etcd"),
        "apiserver": find("kubernetes", "kube-apiserver"),
        "consul": consul.find_binary(),
    }
    kubectl, istiod = find("kubernetes", "kubectl"), find("istio", "pilot-discovery")
    istioctl = find("istio", "istioctl")
    for name in ("var/lib", "consul/data"):
        (tmp_path / name).mkdir(parents=True)
    with (
        netns.Network("compose", f"{ADDRESS}/16") as network,
        (tmp_path / "log").open("w") as log,
    ):
        # As in a network of containers.
        network.ip("route", "add", "default", "via", "172.28.0.1")
        network.write_hosts({"etcd": "127.0.0.1", "apiserver": ADDRESS})
        started: dict[str, subprocess.Popen[str]] = {}

        def start(name: str, program: Path) -> None:
            started[name] = network.popen(
                command(name, program, tmp_path), stdout=log, stderr=log, cwd=tmp_path
            )

        def says(*words: str, word: str) -> Callable[[], bool]:
            def ask() -> bool:
                for name, process in started.items():
                    assert process.poll() is None, f"{name}: {(tmp_path / 'log').read_text()}"
                time.sleep(0.2)
                return word in network.run(words).stdout

            return ask

        for name, program in programs.items():
            start(name, program)
        words = [str(kubectl), "--kubeconfig", str(tmp_path / "keys/kubeconfig")]
        ready = says(*words, "get", "--raw", "/readyz", word="ok")
        eventually(ready, "the API server is ready", within_s=WITHIN_S)
        made = network.run(
            [*words, "create", "service", "clusterip", "a", "--tcp=80"], timeout=120
        )
        assert made.returncode == 0, made.stderr
        where = (*words, "get", "service", "a", "-o", "jsonpath={.spec.clusterIP}")
        assert network.run(where).stdout.startswith("10.99.")
        leads = says(str(programs["consul"]), "operator", "raft", "list-peers", word="leader")
        eventually(leads, "Consul leads", within_s=WITHIN_S)
        members = network.run([str(programs["consul"]), "members"]).stdout
        assert f"{ADDRESS}:8301" in members
        # What docs/consul.md says to do then, with the kinds as istioctl has them.
        assert "create namespace istio-system" in (DOCUMENTS.parent / "consul.md").read_text()
        network.run([*words, "create", "namespace", "istio-system"], check=True, timeout=120)
        kinds = [str(istioctl), "manifest", "generate", "--set", "profile=empty"]
        kinds += ["--set", "components.base.enabled=true"]
        (tmp_path / "crds.yaml").write_text(network.run(kinds, check=True, timeout=120).stdout)
        network.run([*words, "apply", "-f", str(tmp_path / "crds.yaml")], check=True, timeout=120)
        start("istiod", istiod)
        asks = (
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://127.0.0.1:8080/ready",
        )
        eventually(says(*asks, word="200"), "istiod is ready", within_s=WITHIN_S)
        listening = network.run(["ss", "-Hltn"]).stdout
        assert ":15010 " in listening and ":15012 " in listening
