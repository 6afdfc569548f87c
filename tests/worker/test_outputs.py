"""The worker that writes the certificate for other programs, and what a reader of theirs finds."""

import binascii
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from istio_hostagent.errors import HostAgentError
from istio_hostagent.host import outputfiles
from istio_hostagent.workers import outputs
from tests.demo import ca_material
from tests.lab.workers import NOBODY, run_worker

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
WEB = "spiffe://cluster.local/ns/vms/sa/web"
POSTRM = Path(__file__).parents[2] / "debian" / "istio-hostagent.postrm"
NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem")
DAEMON, DAEMON_GROUP = pwd.getpwnam("daemon").pw_uid, grp.getgrnam("daemon").gr_gid


@dataclass
class Host:
    """A certificate that istio-proxy (here nobody) holds, and a directory of root's."""

    directory: Path
    material: ca_material.Material

    @property
    def held(self) -> Path:
        return self.directory / "held"

    @property
    def out(self) -> Path:
        return self.directory / "out"

    def hold(self, *, life_s: float = 3600.0) -> dict[str, bytes]:
        self.held.mkdir(exist_ok=True)
        chain, key = ca_material.pair(self.material, WEB, life_s=life_s)
        files = dict(zip(NAMES, (key, chain, self.material.root_bundle), strict=True))
        for name, data in files.items():
            (self.held / name).unlink(missing_ok=True)
            (self.held / name).write_bytes(data)
            (self.held / name).chmod(0o600)
            os.chown(self.held / name, NOBODY, NOBODY)
        return files

    def run(self, *outputs: dict[str, Any], identity: str = WEB) -> Any:
        request = {
            "output_dir": str(self.held),
            "store_dir": str(self.directory / "store"),
            "identity": identity,
            "user": [NOBODY, NOBODY],
            "record": str(self.directory / "record"),
            "outputs": outputs,
        }
        return run_worker("outputs", request)

    def release(self, *kept: dict[str, Any]) -> Any:
        paths = [each["path"] for each in kept]
        request = {"record": str(self.directory / "record"), "kept": paths}
        return run_worker("outputs", request)

    def write(self, *outputs: dict[str, Any]) -> list[bool]:
        """Which of them were written; none has failed."""
        answer = self.run(*outputs)
        assert [each["error"] for each in answer["outputs"]] == [""] * len(outputs), answer
        return [each["is_changed"] for each in answer["outputs"]]


@pytest.fixture
def host() -> Iterator[Host]:
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    try:
        (made / "out").mkdir()
        yield Host(made, ca_material.create(made / "ca"))
    finally:
        shutil.rmtree(made)


def output(
    kind: str,
    path: Path,
    *,
    owner: int = 0,
    group: int = 0,
    mode: int = 0o600,
    password_file: Path | str = "",
) -> dict[str, Any]:
    return {
        "kind": kind,
        "path": str(path),
        "owner": owner,
        "group": group,
        "mode": mode,
        "password_file": str(password_file),
    }


def facts(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def test_key_and_chain_in_one_file_with_owner_and_mode(host: Host) -> None:
    wanted = output("pem", host.out / "mesh.pem", owner=DAEMON, group=DAEMON_GROUP, mode=0o440)
    files = host.hold()
    assert host.write(wanted) == [True]
    assert (host.out / "mesh.pem").read_bytes() == files["key.pem"] + files["cert-chain.pem"]
    assert facts(host.out / "mesh.pem") == (0o440, DAEMON, DAEMON_GROUP)
    assert host.write(wanted) == [False]
    files = host.hold()
    assert host.write(wanted) == [True]
    assert (host.out / "mesh.pem").read_bytes() == files["key.pem"] + files["cert-chain.pem"]
    assert os.listdir(host.out) == ["mesh.pem"]


def test_three_files_that_switch_together(host: Host) -> None:
    wanted = output("files", host.out / "set", owner=DAEMON, group=DAEMON_GROUP, mode=0o640)
    for _ in range(3):
        files = host.hold()
        assert host.write(wanted) == [True]
        assert read_set(host.out / "set") == files
    assert facts(host.out / "set" / "key.pem") == (0o640, DAEMON, DAEMON_GROUP)
    assert facts(host.out / "set" / "cert-chain.pem") == (0o644, DAEMON, DAEMON_GROUP)
    assert host.write(wanted) == [False]
    sets = [name for name in os.listdir(host.out / "set") if name.startswith("..set-")]
    assert len(sets) == 2


@pytest.mark.parametrize("password", ["", "change it"])
def test_pkcs12_has_key_chain_and_roots(host: Host, password: str) -> None:
    secret = host.out / "password"
    secret.write_text(password + "\n")
    secret.chmod(0o600)
    wanted = output("pkcs12", host.out / "mesh.p12", password_file=secret if password else "")
    files = host.hold()
    assert host.write(wanted) == [True]
    data = (host.out / "mesh.p12").read_bytes()
    key, leaf, others = pkcs12.load_key_and_certificates(data, password.encode() or None)
    assert key is not None and leaf is not None
    chain = ca_material.split(files["cert-chain.pem"])
    roots = ca_material.split(files["root-cert.pem"])
    assert leaf == chain[0]
    assert sorted(map(hash, others)) == sorted(map(hash, [*chain[1:], *roots]))
    form = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert key.private_bytes(*form) == files["key.pem"]
    # Each rendering differs; what stands there stays while nothing has changed.
    assert host.write(wanted) == [False]
    secret.write_text("another\n")
    assert host.write(wanted) == [bool(password)]


def test_as_many_roots_as_an_operating_system_trusts_are_passed_on(host: Host) -> None:
    files = host.hold()
    (host.held / "root-cert.pem").write_bytes(files["root-cert.pem"] + ca_material.many_roots(144))
    wanted = output("files", host.out / "set"), output("pkcs12", host.out / "mesh.p12")
    assert host.write(*wanted) == [True, True]
    _, _, others = pkcs12.load_key_and_certificates((host.out / "mesh.p12").read_bytes(), None)
    assert len(others) > 144


def test_what_somebody_has_taken_away_or_changed_is_written_again(host: Host) -> None:
    wanted = output("pem", host.out / "mesh.pem"), output("files", host.out / "set")
    files = host.hold()
    host.write(*wanted)
    (host.out / "mesh.pem").unlink()
    (host.out / "set" / "cert-chain.pem").unlink()
    assert host.write(*wanted) == [True, True]
    (host.out / "set" / "cert-chain.pem").resolve().write_text("x")
    assert host.write(*wanted) == [False, True]
    assert read_set(host.out / "set") == files
    assert host.write(output("pem", host.out / "mesh.pem", mode=0o400), wanted[1]) == [True, False]
    assert facts(host.out / "mesh.pem")[0] == 0o400


def test_one_that_cannot_be_written_is_named_and_keeps_no_other_from_it(host: Host) -> None:
    host.hold()
    theirs = host.directory / "theirs"
    theirs.mkdir()
    os.chown(theirs, DAEMON, DAEMON_GROUP)
    strange = host.out / "strange"
    strange.mkdir()
    (strange / "key.pem").write_text("mine")
    answer = host.run(
        output("pem", theirs / "mesh.pem"),
        output("pem", host.out / "none" / "mesh.pem"),
        output("files", strange),
        output("pkcs12", host.out / "x.p12", password_file=host.out / "absent"),
        output("pem", host.out),
        output("pem", host.out / "mesh.pem"),
    )
    errors = [each["error"] for each in answer["outputs"]]
    assert f"root writes only where nobody else can: {theirs} belongs to daemon" in errors[0]
    assert f"{host.out}/none/mesh.pem cannot be written: No such file" in errors[1]
    assert f"{strange}/key.pem is there and was not written by this agent" in errors[2]
    assert f"{host.out}/absent" in errors[3]
    assert "Is a directory" in errors[4]
    assert errors[5] == ""
    assert (host.out / "mesh.pem").is_file()
    assert (strange / "key.pem").read_text() == "mine"
    assert os.listdir(theirs) == []


def test_a_link_that_others_could_plant_leads_nowhere(host: Host) -> None:
    host.hold()
    victim = host.directory / "victim"
    victim.write_text("untouched")
    (host.out / "mesh.pem").symlink_to(victim)
    (host.out / "mesh.pem.new").symlink_to(victim)
    assert host.write(output("pem", host.out / "mesh.pem")) == [True]
    assert victim.read_text() == "untouched"
    assert not (host.out / "mesh.pem").is_symlink()


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_together_is_not_passed_on(host: Host, name: str) -> None:
    wanted = output("pem", host.out / "mesh.pem")
    host.hold()
    host.write(wanted)
    before = (host.out / "mesh.pem").read_bytes()
    other = ca_material.foreign(host.material)
    chain, key = ca_material.pair(other, WEB, life_s=3600.0)
    data = {"key.pem": key, "cert-chain.pem": chain, "root-cert.pem": other.root_bundle}[name]
    (host.held / name).write_bytes(data)
    assert host.run(wanted)["error"]["code"] == "certificate-untrusted"
    assert (host.out / "mesh.pem").read_bytes() == before


def test_root_reads_nothing_of_what_istio_proxy_holds(host: Host) -> None:
    """A link that istio-proxy plants shows it no more than it may see itself."""
    host.hold()
    secret = host.directory / "secret"
    secret.write_bytes((host.held / "key.pem").read_bytes())
    secret.chmod(0o600)  # root's
    (host.held / "key.pem").unlink()
    (host.held / "key.pem").symlink_to(secret)
    answer = host.run(output("pem", host.out / "mesh.pem"))
    assert "error" in answer
    assert not (host.out / "mesh.pem").exists()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("files", ["../../planted"]),
        ("files", [*NAMES, "../../planted"]),
        ("files", NAMES[:2]),
        ("pem", ["/etc/planted"]),
        ("pem", []),
    ],
)
def test_names_that_the_rendering_process_makes_up_are_no_paths_for_root(
    host: Host, kind: str, names: list[str]
) -> None:
    """It runs as istio-proxy and parses what that user wrote: nothing that it says is believed."""
    made = {"files": {name: binascii.b2a_base64(b"x").decode() for name in names}}
    before = sorted(host.directory.rglob("*"))
    with pytest.raises(HostAgentError, match="made other files than it was asked for"):
        outputs.write(output(kind, host.out / "place"), made)
    assert sorted(host.directory.rglob("*")) == before


def test_a_set_has_no_file_outside_its_directory(host: Host) -> None:
    with pytest.raises(HostAgentError, match="no name of a file"):
        outputfiles.write_set(
            str(host.out / "set"), {"../../planted": b"x"}, mode=0o600, owner=(0, 0)
        )
    assert os.listdir(host.out) == ["set"]


def read_set(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in NAMES}


def die_at(number: int) -> None:
    """From now on this process ends at the system call with this number, as far as Python tells."""
    left = number
    events = {"open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir"}
    events |= {"os.chmod", "os.chown", "os.listdir"}

    def hook(event: str, _arguments: object) -> None:
        nonlocal left
        if event in events:
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(hook)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_kill_at_any_moment_leaves_a_set_that_matches(host: Host, is_first: bool) -> None:
    content = {name: [name.encode() + str(count).encode() for count in range(2)] for name in NAMES}
    old, new = ({name: each[count] for name, each in content.items()} for count in (0, 1))
    place, owner = host.out / "set", (DAEMON, DAEMON_GROUP)
    for number in range(200):
        shutil.rmtree(place, ignore_errors=True)
        if not is_first:
            outputfiles.write_set(str(place), old, mode=0o600, owner=owner)
        pid = os.fork()
        if pid == 0:
            die_at(number)
            outputfiles.write_set(str(place), new, mode=0o600, owner=owner)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        seen = {name: (place / name).read_bytes() for name in NAMES if (place / name).exists()}
        if is_first:
            assert seen.items() <= new.items()
        else:
            assert seen in (old, new), number
        outputfiles.write_set(str(place), new, mode=0o600, owner=owner)
        assert read_set(place) == new
        if status == 0:
            break
    assert number > 20


def test_a_kill_at_any_moment_leaves_a_file_that_is_whole(host: Host) -> None:
    path = host.out / "mesh.pem"
    for number in range(50):
        outputfiles.write_file(str(path), b"old", mode=0o400, owner=(DAEMON, 0))
        pid = os.fork()
        if pid == 0:
            die_at(number)
            outputfiles.write_file(str(path), b"new", mode=0o400, owner=(DAEMON, 0))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert path.read_bytes() in (b"old", b"new")
        assert facts(path) == (0o400, DAEMON, 0)
        if status == 0:
            break
    assert number > 4


def test_a_directory_that_group_or_others_can_change_is_refused(host: Host) -> None:
    host.out.chmod(0o775)
    with pytest.raises(HostAgentError, match="root writes only where nobody else can"):
        outputfiles.write_file(str(host.out / "x"), b"", mode=0o600, owner=(0, 0))


def test_the_record_has_no_key_in_it(host: Host) -> None:
    files = host.hold()
    host.write(output("pem", host.out / "mesh.pem"))
    record = (host.directory / "record" / "record.json").read_text()
    assert facts(host.directory / "record" / "record.json")[0] == 0o600
    for line in files["key.pem"].decode().splitlines()[1:-1]:
        assert line not in record
    json.loads(record)


def test_what_no_key_names_any_more_is_removed_and_nothing_else(host: Host) -> None:
    host.hold()
    (host.out / "set").mkdir()
    (host.out / "set" / "mine").write_text("mine")
    kept = output("pem", host.out / "kept.pem")
    host.write(
        *(kept, output("files", host.out / "set"), output("files", host.out / "whole")),
        *(output("pem", host.out / "mesh.pem", owner=DAEMON), output("pem", host.out / "gone")),
    )
    (host.out / "gone").unlink()
    # Whether they are named is not lost with a write of others, nor with one that fails.
    host.hold()
    host.write(kept)
    removed = [str(host.out / name) for name in ("gone", "mesh.pem", "set", "whole")]
    assert host.release(kept) == {"removed": removed, "left": [], "failed": []}
    left = sorted(str(path.relative_to(host.out)) for path in host.out.rglob("*"))
    assert left == ["kept.pem", "set", "set/mine"]
    notes = {os.readlink(path) for path in (host.directory / "record").glob("*.output")}
    assert notes == {kept["path"]}, "purge leaves the others alone, too"
    assert host.release(kept) == {"removed": [], "left": [], "failed": []}
    assert host.write(kept) == [False]


@pytest.mark.parametrize("kind", ["pem", "files"])
def test_what_somebody_has_changed_since_is_theirs(host: Host, kind: str) -> None:
    host.hold()
    wanted = output(kind, host.out / "mesh")
    host.write(wanted)
    changed = host.out / "mesh" if kind == "pem" else host.out / "mesh" / "key.pem"
    changed.unlink()
    changed.write_text("an operator's own")
    answer = host.release()
    assert answer["removed"] == []
    assert answer["left"] == [f"{host.out}/mesh stays: it was changed since this agent wrote it"]
    assert changed.read_text() == "an operator's own"
    assert not list((host.directory / "record").glob("*.output"))


def test_a_directory_in_place_of_a_file_is_somebodys(host: Host) -> None:
    host.hold()
    host.write(output("pem", host.out / "mesh.pem"))
    (host.out / "mesh.pem").unlink()
    (host.out / "mesh.pem").mkdir()
    assert host.release()["removed"] == []
    assert (host.out / "mesh.pem").is_dir()


def test_what_lies_where_others_could_aim_root_is_left_and_named(host: Host) -> None:
    host.hold()
    host.write(output("pem", host.out / "mesh.pem"))
    host.out.chmod(0o777)
    answer = host.release()
    assert answer["removed"] == []
    assert "root writes only where nobody else can" in answer["failed"][0]
    host.out.chmod(0o755)
    assert host.release()["removed"] == [str(host.out / "mesh.pem")]


def test_a_kill_at_any_moment_of_removal_leaves_what_the_next_one_removes(host: Host) -> None:
    content = dict.fromkeys(NAMES, b"one")
    paths = [str(host.out / name) for name in ("set", "mesh.pem")]
    record = host.directory / "record"
    record.mkdir()
    request = {"record": str(record), "kept": []}
    for number in range(1, 100):
        outputfiles.write_set(paths[0], content, mode=0o600, owner=(0, 0))
        outputfiles.write_file(paths[1], b"one", mode=0o600, owner=(0, 0))
        written = {path: ["sign", outputfiles.fingerprint(path)] for path in paths}
        (record / "record.json").write_text(json.dumps(written))
        pid = os.fork()
        if pid == 0:
            die_at(number)
            outputs.release(request)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if (host.out / "set" / "..data").exists():
            assert read_set(host.out / "set") == content
        outputs.release(request)
        assert os.listdir(host.out) == [], number
        if status == 0:
            break
    assert number > 15


def test_purge_removes_what_was_written_and_nothing_else(host: Host) -> None:
    host.hold()
    files = [output("pem", host.out / name) for name in ("mesh.pem", "other.pem")]
    host.write(*files, output("files", host.out / "set"))
    (host.out / "mine").write_text("mine")
    (host.out / "set" / "mine").write_text("mine")
    script = POSTRM.read_text()
    function = script[script.index("remove_output() {") :].partition("\n}\n")[0] + "\n}\n"
    call = 'remove_output "$(readlink "$link")" "${link%.output}.written"'
    assert call in script
    loop = f'for link in "$1"/*.output; do {call}; done'
    command = ["sh", "-euc", function + loop, "purge", str(host.directory / "record")]
    (host.out / "other.pem").rename(host.out / "ours")
    (host.out / "other.pem").write_text("an operator's own")
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    assert f"{host.out}/other.pem was changed since the agent wrote it" in done.stderr
    (host.out / "ours").unlink()
    left = sorted(str(path.relative_to(host.out)) for path in host.out.rglob("*"))
    assert left == ["mine", "other.pem", "set", "set/mine"]
    (host.out / "set" / "mine").unlink()
    (host.out / "other.pem").unlink()
    subprocess.run(command, check=True)
    assert os.listdir(host.out) == ["mine"]
