"""What is promised of files: of those on a disk, and of those in memory."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from istio_hostagent.config import model
from istio_hostagent.host import (
    certificatefiles,
    files,
    layers,
    mounts,
    ports,
    proxyfiles,
    sights,
    statefiles,
)
from istio_hostagent.host.answers import looker
from istio_hostagent.host.processes import User
from istio_hostagent.supervise import builds, specs
from tests.fakes.files import (
    Disk,
    FakeCertificateFiles,
    FakeEnvironmentFiles,
    FakeProxyFiles,
    FakeSights,
    FakeStateFiles,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
ME = User(os.geteuid(), os.getegid())


# -- the state directory ----------------------------------------------------------------------------


class State(NamedTuple):
    files: ports.StateFiles
    break_disk: Callable[[], None]  # from now on nothing can be written


class StateContract:
    def test_what_is_written_is_read(self, state: State) -> None:
        assert not state.files.has("mark")
        state.files.write("mark", b"one", mode=0o644)
        state.files.write("mark", b"two", mode=0o644)
        assert state.files.has("mark")
        assert state.files.read("mark", 100) == b"two"
        assert state.files.read("mark", 2) == b"tw"

    def test_what_is_not_there_cannot_be_read(self, state: State) -> None:
        with pytest.raises(FileNotFoundError):
            state.files.read("mark", 100)

    def test_removing_says_whether_it_was_there(self, state: State) -> None:
        state.files.write("mark", b"", mode=0o644)
        assert state.files.remove("mark")
        assert not state.files.remove("mark")
        assert not state.files.has("mark")

    def test_a_write_that_fails_takes_nothing_away(self, state: State) -> None:
        state.files.write("mark", b"kept", mode=0o644)
        state.break_disk()
        with pytest.raises(OSError, match=r".") as error:
            state.files.write("mark", b"lost", mode=0o644)
        assert error.value.strerror
        assert state.files.read("mark", 100) == b"kept"


class TestStateFiles(StateContract):
    @pytest.fixture
    def state(self, tmp_path: Path) -> State:
        def break_disk() -> None:
            (tmp_path / "mark.new").mkdir()  # where the file is written before it is renamed

        return State(statefiles.StateFiles(str(tmp_path)), break_disk)


class TestRoom:
    """What is written on a full disk, in room that was kept."""

    def test_room_is_kept_with_each_write_and_used_once(self, tmp_path: Path) -> None:
        path, room = tmp_path / "texts", tmp_path / "texts.room"
        state = statefiles.StateFiles(str(tmp_path), reserved=("texts",))
        state.write("texts", b"one", mode=0o600)
        assert room.stat().st_size >= 1 << 16
        files.write_reserved(str(path), str(room), b"another", mode=0o644)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"another", 0o644)
        assert not room.exists()
        with pytest.raises(OSError, match=r"texts\.room"):
            files.write_reserved(str(path), str(room), b"third")
        assert path.read_bytes() == b"another"

    def test_what_is_too_large_for_it_takes_nothing_away(self, tmp_path: Path) -> None:
        path, room = tmp_path / "texts", tmp_path / "room"
        path.write_bytes(b"kept")
        assert files.reserve(str(room), 100)
        with pytest.raises(OSError, match="No space"):
            files.write_reserved(str(path), str(room), bytes(101))
        assert path.read_bytes() == b"kept"


class TestFakeStateFiles(StateContract):
    @pytest.fixture
    def state(self) -> State:
        disk = Disk()

        def break_disk() -> None:
            disk.is_full = True

        return State(FakeStateFiles(disk), break_disk)


# -- certificates and credentials -------------------------------------------------------------------


class Write(Protocol):
    def __call__(self, path: str, data: bytes) -> None: ...


class Certificates(NamedTuple):
    files: ports.CertificateFiles
    output: str
    write: Write
    remove: Callable[[str], object]


class CertificatesContract:
    def test_a_file_that_is_replaced_looks_another_way(self, given: Certificates) -> None:
        path = f"{given.output}/key.pem"
        missing = given.files.fingerprint(path)
        given.write(path, b"one")
        before = given.files.fingerprint(path)
        assert before != missing
        assert given.files.fingerprint(path) == before
        given.remove(path)
        given.write(path, b"another")
        assert given.files.fingerprint(path) != before

    def test_a_key_is_seen(self, given: Certificates) -> None:
        assert not given.files.has_key(given.output)
        given.write(f"{given.output}/key.pem", b"key")
        assert given.files.has_key(given.output)

    def test_where_there_is_no_store_none_is_found(self, given: Certificates) -> None:
        with pytest.raises(FileNotFoundError):
            given.files.find_stores()

    def test_each_directory_has_one_store(self, given: Certificates) -> None:
        store = given.files.make_store(given.output, ME)
        assert given.files.make_store(given.output, ME) == store
        other = given.files.make_store(f"{given.output}/other", ME)
        found = dict(given.files.find_stores())
        assert found == {store: given.output, other: f"{given.output}/other"}
        given.files.remove_store(other)
        assert dict(given.files.find_stores()) == {store: given.output}


class TestCertificateFiles(CertificatesContract):
    @pytest.fixture
    def given(self, tmp_path: Path) -> Certificates:
        (tmp_path / "certs").mkdir()

        def write(path: str, data: bytes) -> None:
            Path(path).write_bytes(data)

        files = certificatefiles.CertificateFiles(
            str(tmp_path / "state"), sights.Sights(mounts.Mounts())
        )
        return Certificates(files, str(tmp_path / "certs"), write, os.unlink)

    def test_a_link_leads_to_the_directory_that_was_last_asked_for(
        self, given: Certificates, tmp_path: Path
    ) -> None:
        link = tmp_path / "state" / "certs" / "current"
        for output in (given.output, f"{given.output}/other", given.output):
            given.files.make_store(output, ME)
            assert os.readlink(link) == output
        # It is none of the stores.
        assert len(given.files.find_stores()) == 2


class TestFakeCertificateFiles(CertificatesContract):
    @pytest.fixture
    def given(self) -> Certificates:
        disk = Disk()
        return Certificates(FakeCertificateFiles(disk, {}), "/certs", disk.write, disk.remove)


# -- environment files ------------------------------------------------------------------------------


class Texts(NamedTuple):
    files: ports.EnvironmentFiles
    directory: str
    write: Write
    spoil: Callable[[str], object]  # something is there that cannot be read


class TextsContract:
    def test_files_come_in_order_and_missing_ones_without_data(self, texts: Texts) -> None:
        one, two, three = (f"{texts.directory}/{name}" for name in ("z", "a", "m"))
        texts.write(one, b"ONE=1\n")
        texts.write(three, b"THREE=3\n")
        found, problems = texts.files.begin((one, two, three), ME).end(())
        assert problems == ()
        assert [(each.file, each.data) for each in found] == [
            (one, b"ONE=1\n"),
            (two, None),
            (three, b"THREE=3\n"),
        ]
        assert all(each.trust.is_root_only for each in found)

    def test_one_that_cannot_be_read_is_a_problem_and_no_layer(self, texts: Texts) -> None:
        good, bad = f"{texts.directory}/good", f"{texts.directory}/bad"
        texts.write(good, b"")
        texts.spoil(bad)
        found, problems = texts.files.begin((good, bad), ME).end(())
        assert [each.file for each in found] == [good]
        assert [each.file for each in problems] == [bad]
        assert problems[0].message.startswith("cannot be read: ")


@needs_root
class TestLayers(TextsContract):
    @pytest.fixture
    def texts(self, tmp_path: Path) -> Texts:
        def write(path: str, data: bytes) -> None:
            Path(path).write_bytes(data)

        return Texts(layers, str(tmp_path), write, os.mkdir)


class TestFakeEnvironmentFiles(TextsContract):
    @pytest.fixture
    def texts(self) -> Texts:
        disk = Disk()
        unreadable: set[str] = set()
        files = FakeEnvironmentFiles(disk, unreadable)
        return Texts(files, "/etc", disk.write, unreadable.add)


# -- files behind mounts ---------------------------------------------------------------------------


class SightsContract:
    def test_without_such_a_file_nobody_has_to_look(self, seen: ports.Sights) -> None:
        assert not seen.is_behind
        assert seen.remote() == ()
        assert not seen.take(("/never/asked/for",), (looker.Sight(None, None, is_program=True),))


class TestSights(SightsContract):
    @pytest.fixture
    def seen(self) -> ports.Sights:
        made = sights.Sights(mounts.Mounts())
        assert made.fingerprint("/proc/self/status") is not None
        return made


class TestFakeSights(SightsContract):
    @pytest.fixture
    def seen(self) -> ports.Sights:
        return FakeSights()


# -- what a proxy finds -----------------------------------------------------------------------------


class Proxies(NamedTuple):
    files: ports.ProxyFiles
    read: Callable[[str], bytes | None]
    program: str  # one that can be run


class ProxiesContract:
    def build(self, given: Proxies, name: str) -> builds.Build:
        spec = specs.ProcessSpec("envoy", (given.program, "-c", "x"), (), ME.uid, ME.gid)
        directory = f"{given.files.directory}/{builds.ENVOY_PREFIX}{name}"
        return builds.Build(spec, directory, {"envoy.json": name})

    def test_a_program_is_found_and_what_is_none_is_not(self, given: Proxies) -> None:
        assert given.files.is_program(given.program)
        assert not given.files.is_program(f"{given.program}-none")
        assert given.files.is_known(f"{given.program}-none")

    def test_what_is_written_lies_there_until_nobody_uses_it(self, given: Proxies) -> None:
        one, two = self.build(given, "1"), self.build(given, "2")
        given.files.write(one)
        given.files.write(two)
        given.files.write(two)
        assert given.read(f"{one.directory}/envoy.json") == b"1"
        given.files.remove_others((two,))
        assert given.read(f"{one.directory}/envoy.json") is None
        assert given.read(f"{two.directory}/envoy.json") == b"2"


@needs_root
class TestProxyFiles(ProxiesContract):
    @pytest.fixture
    def given(self, tmp_path: Path) -> Proxies:
        def read(path: str) -> bytes | None:
            return Path(path).read_bytes() if Path(path).exists() else None

        facts = model.HostFacts(ME.uid, ME.gid, runtime_dir=str(tmp_path))
        program = shutil.which("true")
        assert program is not None
        return Proxies(proxyfiles.ProxyFiles(facts, sights.Sights(mounts.Mounts())), read, program)


class TestFakeProxyFiles(ProxiesContract):
    @pytest.fixture
    def given(self) -> Proxies:
        disk = Disk()
        files = FakeProxyFiles(disk, {"/usr/bin/envoy"})
        return Proxies(files, disk.files.get, "/usr/bin/envoy")
