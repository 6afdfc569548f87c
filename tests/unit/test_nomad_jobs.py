"""The job files of docs/nomad, read: what they run, set and name is what these programs know."""

import functools
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from istio_hostagent.config import settings
from tests.lab import nomadjob

DOCUMENTS = Path(__file__).parents[2] / "docs"
FILES = sorted((DOCUMENTS / "nomad").glob("*.nomad.hcl"))
AGENT = "/usr/sbin/istio-hostagent"
# What a task may be given, beside the keys of the program.
DIRECTORIES = {"CONFIGURATION_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"}
PLACES = {"ISTIO_CLUSTER_CONFIG", "ISTIO_SIDECAR_CONFIG", "ISTIO_HOSTAGENT_INSTANCE"}
KNOWN = nomadjob.Known(lambda name: (("192.0.2.1", 7),))
TASK = {"NOMAD_ALLOC_ID": "a", "NOMAD_TASK_DIR": "/local", "NOMAD_SECRETS_DIR": "/secrets"}


@functools.cache
def parse(path: Path) -> nomadjob.Job:
    return nomadjob.parse(path)


def tasks() -> list[tuple[nomadjob.Job, nomadjob.Group, nomadjob.Task]]:
    jobs = [parse(path) for path in FILES]
    return [
        (job, group, task)
        for job in jobs
        for group in job.groups.values()
        for task in group.tasks.values()
    ]


def test_every_file_is_a_job_of_its_name() -> None:
    assert len(FILES) == 3
    for path in FILES:
        assert parse(path).name == path.name.removesuffix(".nomad.hcl")
    assert [group.network for _, group, _ in tasks() if group.network != "bridge"] == []


def test_each_verb_and_option_of_the_agent_is_known() -> None:
    found = [task.argv for _, _, task in tasks() if task.argv[0] == AGENT]
    assert {argv[1] for argv in found} == {"run", "wait"}
    for argv in found:
        done = subprocess.run(
            ["/usr/bin/python3", "-m", "istio_hostagent", argv[1], "--help"],
            cwd=DOCUMENTS.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        options = [word for word in argv[2:] if word.startswith("--")]
        assert [word for word in options if word not in done.stdout] == []


def test_each_key_is_one_of_the_table_and_has_a_value() -> None:
    rows = {row.key: row for row in settings.SETTINGS}
    seen = 0
    for _, _, task in tasks():
        for template in task.templates:
            if not template.destination.endswith((".env",)) or template.is_environment:
                continue
            text = nomadjob.render(template.data, TASK, KNOWN)
            for line in filter(None, text.splitlines()):
                key, _, value = line.partition("=")
                rows[key].parse(value)
                # Nomad's directories are open to every user, and there such a key does not count.
                assert not rows[key].is_guarded or rows[key].is_proxys, key
                seen += 1
    assert seen > 20


def test_the_environment_of_an_agent_says_where_its_files_are() -> None:
    agents = [task for _, _, task in tasks() if task.argv == (AGENT, "run")]
    assert len(agents) == 3
    for task in agents:
        assert DIRECTORIES < set(task.environment) <= DIRECTORIES | PLACES
        assert (task.hook, task.is_sidecar, task.kill_signal) == ("prestart", True, "SIGTERM")
        # What Nomad allows by itself (max_kill_timeout).
        assert 5 < task.kill_timeout_s <= 30
        if task.driver == "raw_exec":
            state = nomadjob.interpolate(task.environment["STATE_DIRECTORY"], TASK)
            assert state.startswith("/run/istio-hostagent/a/")


def test_ports_of_services_and_checks_are_those_of_their_group() -> None:
    for path in FILES:
        for group in parse(path).groups.values():
            for service in group.services:
                assert {service.port, service.check[0]} <= set(group.ports)
                assert service.provider == "nomad"


def test_the_control_plane_is_that_of_the_compose_file() -> None:
    """But for what is said over loopback here, and over the network of containers there."""
    compose = yaml.safe_load((DOCUMENTS / "consul/compose.yaml").read_text())["services"]
    group = parse(DOCUMENTS / "nomad/control-plane.nomad.hcl").groups["control-plane"]
    assert set(group.tasks) == set(compose) - {"consul"}
    for name in ("apiserver", "istiod"):
        here = {word.partition("=")[0] for word in group.tasks[name].argv[1:]}
        there = {word.partition("=")[0] for word in compose[name]["command"][1:]}
        assert there <= here
        assert here - there <= {"--httpAddr"}


def test_the_keys_are_made_by_the_same_script() -> None:
    group = parse(DOCUMENTS / "nomad/control-plane.nomad.hcl").groups["control-plane"]
    (template,) = group.tasks["keys"].templates
    script = (DOCUMENTS / "consul/make-keys.sh").read_text()
    assert nomadjob.render(template.data, {}, KNOWN) == script.removesuffix("\n")


def test_what_the_parser_of_the_tests_does_not_know_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.nomad.hcl"
    text = (DOCUMENTS / "nomad/shop.nomad.hcl").read_text()
    for before, after in (
        ('mode = "bridge"', 'mode = "bridge"\n      dns {\n      }'),
        ("kill_timeout =", "kill_time ="),
        ("echo answered", "echo %%{answered}"),
    ):
        assert before in text
        path.write_text(text.replace(before, after))
        with pytest.raises((ValueError, KeyError)):
            nomadjob.parse(path)
    with pytest.raises(ValueError, match="has no variables"):
        nomadjob.parse(DOCUMENTS / "nomad/shop.nomad.hcl", {"mash": "10.0.0.0/8"})


def test_the_client_has_what_the_jobs_need() -> None:
    (client,) = nomadjob.load(DOCUMENTS / "nomad/client.hcl")["client"]
    assert client["cni_path"] == '"/usr/lib/cni"'
    text = (DOCUMENTS / "nomad/client.hcl").read_text()
    assert re.search(r'plugin "raw_exec" \{\n  config \{\n    enabled = true', text)
    drivers = {task.driver for _, _, task in tasks()}
    assert drivers == {"raw_exec", "exec"}


def test_what_a_root_needs_is_listed_with_where_it_is(tmp_path: Path) -> None:
    envoy = tmp_path / "envoy"
    envoy.write_text("#!/bin/sh\n")
    envoy.chmod(0o755)
    done = subprocess.run(
        ["sh", str(DOCUMENTS / "nomad/chroot-env.sh")],
        env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    listed = json.loads(done.stdout)["client"]["chroot_env"]
    assert listed[str(envoy)] == str(envoy)
    # Nomad would take a link along as it is: only what is no link is named.
    assert [source for source in listed if Path(source).is_symlink()] == []
    inside = set(listed.values())
    assert {"/usr/bin/python3", "/bin/sh", "/usr/bin/setpriv", "/etc/passwd"} <= inside
    assert any(re.search(r"/libssl\.so\.\d", each) for each in inside)
    # Of both: what the dynamic loader finds, and the loader itself.
    assert any(re.search(r"/ld-linux.*\.so\.\d", each) for each in inside)


def test_each_command_of_the_document_is_about_what_is_there() -> None:
    text = (DOCUMENTS / "nomad.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line.split() for block in blocks for line in block.splitlines() if line]
    for words in lines:
        files = [word for word in words if word.startswith("docs/")]
        assert [name for name in files if not (DOCUMENTS.parent / name).is_file()] == []
    put = {(words[4], word.partition("=")[0]) for words in lines for word in words if "=@" in word}
    used = {
        (path, key)
        for _, _, task in tasks()
        for template in task.templates
        for path, key in re.findall(r'nomadVar "([^"]*)" \}\}\{\{ \.(\w+)', template.data)
    }
    assert put == used
    run = {Path(words[-1]) for words in lines if words[1:3] == ["job", "run"]}
    assert {path.name for path in run} == {path.name for path in FILES}
