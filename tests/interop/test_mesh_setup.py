"""Hosts are set up: what they get, what a second run does, and what of each trouble is said."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cluster as clusters
from tests.lab import waiting
from tests.lab.cluster import Cluster
from tests.peers import build

from . import objects
from .conftest import find_file
from .mesh import Admin
from .stand_in import UID, Hosts

GROUP = ("--group", "web", "--namespace", "vm")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    istioctl = find_file(
        "ISTIO_HOSTAGENT_TEST_ISTIOCTL", build.directory("istio") / "istioctl", "a real istioctl"
    )
    with clusters.needed(build.directory("kubernetes"), tmp_path_factory.mktemp("api")) as api:
        api.add_istio(istioctl)
        api.create(
            objects.namespace("vm"),
            objects.account("web", "vm"),
            objects.account("default", "vm"),
            objects.root_config_map("vm", "root of the mesh\n"),
            objects.injector(),
            objects.config_map("istio", objects.ISTIO, mesh="{}"),
            objects.service("istio-eastwestgateway", objects.ISTIO, 15012, address="192.0.2.7"),
            objects.group("web", "vm", template={"serviceAccount": "web"}),
            objects.machine_secret("istio.default", "vm"),
        )
        yield api


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path / "hosts")


@pytest.fixture
def admin(api: Cluster, hosts: Hosts, tmp_path: Path) -> Admin:
    made = Admin(tmp_path / "home", api.write_kubeconfig(tmp_path / "config"))
    made.environment["PATH"] = f"{hosts.programs}:{os.environ['PATH']}"
    return made


def test_a_host_of_todays_istio_gets_its_files_and_joins(admin: Admin, hosts: Hosts) -> None:
    done = admin.mesh("setup", "me@vm1", *GROUP)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "me@vm1  done    in the mesh, proven\n"
    assert "ISTIO_SERVICE='web.vm'" in hosts.text("vm1", "/var/lib/istio/envoy/cluster.env")
    assert "defaultConfig:" in hosts.text("vm1", "/etc/istio/config/mesh")
    assert hosts.text("vm1", "/etc/certs/root-cert.pem") == "root of the mesh\n"
    token = hosts.path("vm1", "/run/secrets/tokens/istio-token")
    assert token.read_text().count(".") == 2
    assert (token.stat().st_mode & 0o777, token.stat().st_uid) == (0o600, UID)
    assert hosts.text("vm1", "/etc/hosts").endswith("192.0.2.7 istiod.istio-system.svc\n")
    calls = hosts.calls()
    assert any(call.endswith("install istio-hostagent") for call in calls)
    assert "systemctl start istio-hostagent" in calls
    assert "istio-hostagent wait --timeout 60" in calls


def test_no_secret_is_on_a_command_line_open_to_others_or_left_behind(
    admin: Admin, hosts: Hosts
) -> None:
    admin.did("machineSetup", "vm1", *GROUP)
    admin.did("machineSetup", "vm2", "-n", "vm", *classic(admin))
    token = hosts.text("vm1", "/run/secrets/tokens/istio-token")
    key = hosts.text("vm2", "/etc/certs/key.pem")
    said = "\n".join([*hosts.commands(), *hosts.calls()])
    assert token not in said
    assert key.splitlines()[1] not in said
    modes = dict(re.findall(r"(\S+) (\d+)", (hosts.directory / "modes").read_text()))
    assert {Path(name).name for name in modes} >= {"istio-token", "key.pem"}
    assert set(modes.values()) == {"600"}
    # Neither here nor there.
    assert not [name for name in modes if Path(name).exists()]
    assert hosts.left("vm1") == hosts.left("vm2") == []
    assert hosts.path("vm2", "/etc/certs/key.pem").stat().st_mode & 0o777 == 0o600


def classic(admin: Admin) -> tuple[str, ...]:
    """Files in the directory of the administrator, as the verbs before have written them."""
    (admin.home / "cluster.env").write_text("ISTIO_SERVICE_CIDR=10.96.0.0/12\n")
    (admin.home / "kubedns").write_text("address=/istio-pilot/10.150.0.6\n")
    (admin.home / "sidecar.env").write_text("ISTIO_INBOUND_PORTS=3306,8080\n")
    return ()


def test_a_classic_host_gets_kubedns_certificates_and_both_env_files(
    admin: Admin, hosts: Hosts
) -> None:
    classic(admin)
    admin.did("machineSetup", "vm1", SERVICE_NAMESPACE="vm")
    assert hosts.text("vm1", "/etc/dnsmasq.d/kubedns") == "address=/istio-pilot/10.150.0.6\n"
    place = "/var/lib/istio/envoy"
    assert hosts.text("vm1", f"{place}/cluster.env") == "ISTIO_SERVICE_CIDR=10.96.0.0/12\n"
    assert hosts.text("vm1", f"{place}/sidecar.env") == "ISTIO_INBOUND_PORTS=3306,8080\n"
    certs = hosts.path("vm1", "/etc/certs")
    assert {each.name for each in certs.iterdir()} >= {
        "root-cert.pem",
        "cert-chain.pem",
        "key.pem",
    }
    assert "systemctl restart dnsmasq" in hosts.calls()


def test_a_second_run_changes_nothing_that_is_right(admin: Admin, hosts: Hosts) -> None:
    classic(admin)
    words = ("setup", "vm1", "-n", "vm")
    admin.did(*words)
    paths = [
        path for path in hosts.path("vm1", "/").rglob("*")
        if path.is_file() and "home" not in path.parts
    ]  # fmt: skip
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}
    assert len(before) >= 6
    calls = len(hosts.calls())
    admin.did(*words)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths} == before
    assert "systemctl restart dnsmasq" not in hosts.calls()[calls:]


def test_a_host_keeps_the_certificate_that_it_holds(admin: Admin, hosts: Hosts) -> None:
    classic(admin)
    certs = hosts.path("vm1", "/etc/certs")
    certs.mkdir(parents=True)
    (certs / "key.pem").symlink_to("..data/key.pem")
    (hosts.directory / "holds").touch()
    admin.did("setup", "vm1", "-n", "vm")
    assert (certs / "key.pem").is_symlink()
    # One that does not fit any more is replaced.
    (hosts.directory / "holds").unlink()
    admin.did("setup", "vm1", "-n", "vm")
    assert "PRIVATE KEY" in (certs / "key.pem").read_text()


def test_links_of_istio_proxy_lead_root_nowhere(admin: Admin, hosts: Hosts) -> None:
    """Its directory is its own, and it may be somebody else's by now."""
    place = hosts.path("vm1", "/var/lib/istio/envoy")
    place.mkdir(parents=True)
    for name in ("cluster.env.new", "cluster.env"):
        (place / name).symlink_to("/etc/planted")
    os.chown(place, UID, UID)
    admin.did("setup", "vm1", *GROUP)
    assert not hosts.path("vm1", "/etc/planted").exists()
    assert "ISTIO_SERVICE='web.vm'" in (place / "cluster.env").read_text()
    assert (place / "cluster.env").stat().st_uid == UID
    # The directory itself is a link of its own, to a place that only root may write.
    other = hosts.path("vm2", "/var/lib/istio")
    other.mkdir(parents=True)
    (other / "envoy").symlink_to("/etc")
    os.chown(other, UID, UID)
    done = admin.mesh("setup", "vm2", *GROUP)
    assert done.returncode == 75
    assert "Permission denied" in done.stdout
    assert not hosts.path("vm2", "/etc/cluster.env").exists()


def test_nobody_elses_directory_is_written_into(admin: Admin, hosts: Hosts) -> None:
    place = hosts.path("vm1", "/var/lib/istio")
    place.mkdir(parents=True)
    os.chown(place, 65534, 65534)
    done = admin.mesh("setup", "vm1", *GROUP)
    assert done.returncode == 75
    assert "a directory on the way belongs to nobody" in done.stdout


def test_a_line_of_hosts_is_replaced_and_others_stay(admin: Admin, hosts: Hosts) -> None:
    file = hosts.path("vm1", "/etc/hosts")
    file.parent.mkdir(parents=True)
    file.write_text("127.0.0.1 localhost\n192.0.2.1 istiod.istio-system.svc\n::1 localhost\n")
    admin.did("setup", "vm1", *GROUP)
    admin.did("setup", "vm1", *GROUP)
    assert file.read_text() == (
        "127.0.0.1 localhost\n::1 localhost\n192.0.2.7 istiod.istio-system.svc\n"
    )


def test_the_package_that_is_named_is_installed(
    admin: Admin, hosts: Hosts, tmp_path: Path
) -> None:
    (tmp_path / "x.deb").write_bytes(b"a package")
    stub = hosts.directory / "on-host" / "dpkg-deb"
    stub.write_text("#!/bin/sh\necho 2.0\n")
    stub.chmod(0o755)
    words = ("setup", "vm1", *GROUP, "--package", str(tmp_path / "x.deb"))
    admin.did(*words)
    assert any(call.endswith("install ./x.deb") for call in hosts.calls())
    # The same version is there already.
    (hosts.directory / "installed").touch()
    stub.write_text("#!/bin/sh\necho 1.0\n")
    count = len(hosts.calls())
    admin.did(*words)
    assert not any("install" in call for call in hosts.calls()[count:])


def test_many_hosts_at_once_end_in_a_table(admin: Admin, hosts: Hosts) -> None:
    names = [f"vm{number}" for number in range(12)]
    hosts.make("vm3", "down")
    hosts.make("vm5", "refused")
    hosts.make("vm7", "full")
    done = admin.mesh("setup", *names, *GROUP, "--tries", "1", "--parallel", "4")
    assert done.returncode == 75
    table = dict(re.findall(r"^(vm\d+) +(done|FAILED) ", done.stdout, re.MULTILINE))
    assert list(table) == names
    assert {name for name, word in table.items() if word == "FAILED"} == {"vm3", "vm5", "vm7"}
    assert "vm3   FAILED  connect to host vm3 port 22: No route to host" in done.stdout
    assert "vm5   FAILED  vm5: Permission denied (publickey)." in done.stdout
    assert re.search(r"vm7   FAILED  .*No space left on device", done.stdout)
    assert "vm0: copying files" in done.stderr
    assert hosts.left("vm7") == []
    # Each has a token of its own.
    tokens = {hosts.text(n, "/run/secrets/tokens/istio-token") for n in ("vm0", "vm1", "vm2")}
    assert len(tokens) == 3
    for name, trouble in (("vm3", "down"), ("vm5", "refused"), ("vm7", "full")):
        hosts.mend(name, trouble)
    again = admin.did("setup", *names, *GROUP)
    assert again.count("  done ") == 12


def test_a_host_that_is_not_reached_at_first_is_tried_again(admin: Admin, hosts: Hosts) -> None:
    hosts.make("vm1", "breaks")
    assert "done" in admin.did("setup", "vm1", *GROUP)


def test_a_connection_that_breaks_leaves_no_secret(admin: Admin, hosts: Hosts) -> None:
    hosts.make("vm1", "breaks")
    done = admin.mesh("setup", "vm1", *GROUP, "--tries", "1")
    assert done.returncode == 75
    assert hosts.left("vm1") == []
    admin.did("setup", "vm1", *GROUP)


def test_one_that_is_told_to_end_begins_no_other_host_and_leaves_no_secret(
    admin: Admin, hosts: Hosts
) -> None:
    hosts.make("vm1", "hangs")
    process = subprocess.Popen(
        admin.argv("setup", "vm1", "vm2", *GROUP, "--parallel", "1"),
        env=admin.environment,
        cwd=admin.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    waiting.eventually(lambda: bool(hosts.commands()), "ssh to vm1", within_s=60)
    process.terminate()
    hosts.mend("vm1", "hangs")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert not any("vm2" in command for command in hosts.commands())
    assert hosts.left("vm1") == []
    assert not list(Path("/dev/shm").glob(f"istio-hostagent-{process.pid}-*"))


def test_what_a_killed_run_left_in_memory_is_removed(admin: Admin) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    left = Path(f"/dev/shm/istio-hostagent-{ended.pid}-x")
    left.mkdir(mode=0o700)
    (left / "istio-token").write_text("a token")
    try:
        admin.did("setup", "vm1", *GROUP)
        assert not left.exists()
    finally:
        shutil.rmtree(left, ignore_errors=True)


def test_a_host_that_does_not_join_is_named_with_its_reason(admin: Admin, hosts: Hosts) -> None:
    (hosts.directory / "stays-out").touch()
    done = admin.mesh("setup", "vm1", *GROUP)
    assert done.returncode == 75
    assert done.stdout == "vm1  FAILED  not in the mesh: the CA does not answer\n"
    done = admin.mesh("setup", "vm1", *GROUP, "--wait", "0")
    assert (done.returncode, done.stdout) == (0, "vm1  done    set up\n")


def test_other_programs_are_called_as_the_script_calls_them(
    admin: Admin, hosts: Hosts, tmp_path: Path
) -> None:
    gcloud = hosts.programs / "gcloud"
    gcloud.write_text(
        f'#!/bin/sh\necho "gcloud $*" >>{tmp_path}/gcloud\n'
        "shift; verb=$1; shift\n"
        '[ "$1" != --recurse ] || shift\n'
        '[ "$1" != --zone ] || shift 2\n'
        'if [ $verb = scp ]; then exec scp "$@"; fi\n'
        'host=$1; shift 2; exec ssh "$host" "$1"\n'
    )
    gcloud.chmod(0o755)
    classic(admin)
    admin.did("gceMachineSetup", "vm1", "-n", "vm", GCP_OPTS="--zone Z")
    lines = (tmp_path / "gcloud").read_text().splitlines()
    assert lines[0].startswith("gcloud compute ssh --zone Z vm1 --command ")
    assert lines[1].startswith("gcloud compute scp --recurse --zone Z ")
    assert lines[1].endswith(" vm1:.istio-hostagent-setup/")
    # The machine's own document is its credential.
    assert not hosts.path("vm1", "/etc/certs/key.pem").exists()
    assert hosts.path("vm1", "/etc/certs/root-cert.pem").exists()
    run = f"{gcloud} compute ssh --zone Z"
    copy = f"{gcloud} compute scp --recurse --zone Z"
    admin.did("setup", "vm2", "-n", "vm", ISTIO_RUN=run, ISTIO_CP=copy)
    assert hosts.path("vm2", "/etc/certs/key.pem").exists()


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (("-oProxyCommand=x", *GROUP), {}, "arguments are required: HOST"),
        (("--", "-oProxyCommand=x"), {}, "arguments are required: HOST"),
        (("vm 1", *GROUP), {}, "'vm 1' is no host"),
        (("vm1", "--group", "web"), {}, "a WorkloadGroup is named by"),
        (("vm1", *GROUP, "--parallel", "0"), {}, "--parallel must be 1 or more"),
        (("vm1", "vm2", *GROUP, "--internal-ip", "10.0.0.1"), {}, "are of one host"),
        (("vm1", *GROUP, "--package", "x.deb"), {}, "x.deb: cannot be read: No such file"),
        (("vm1", *GROUP), {"ISTIO_RUN": "ssh 'x"}, "ISTIO_RUN is no command line"),
        (("vm1", *GROUP), {"ISTIO_RUN": "no-such-program"}, "there is no no-such-program in PATH"),
        (("vm1", "-n", "vm", "--from", "none", "--timeout", "0"), {}, "Service istio-pilot-ilb"),
        (("vm1", "--group", "none", "-n", "vm"), {}, "there is no WorkloadGroup none"),
        ((), {}, "the following arguments are required: HOST"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    admin: Admin, words: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    done = admin.mesh("setup", *words, **environment)
    assert done.returncode in (64, 75, 78), done.stderr
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
