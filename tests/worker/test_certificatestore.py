"""The certificate files on disk: switching together, what an operator put there, and SIGKILL."""

import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from istio_hostagent.errors import HostUnsupported, KernelBusy
from istio_hostagent.host import certificatestore, generations

NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem")
# Reached well before this; a test that gets here has no end.
MOST_STEPS = 400


def pair(mark: str) -> generations.Files:
    return generations.Files(
        f"key {mark}".encode(), f"chain {mark}".encode(), b"root " + mark.encode()
    )


def marks(directory: Path) -> tuple[str | None, ...]:
    """Which pair each of the three names shows, None where it shows nothing."""
    seen: list[str | None] = []
    for name in NAMES:
        path = directory / name
        seen.append(path.read_text().split()[1] if path.exists() else None)
    return tuple(seen)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "certs").mkdir()
    return tmp_path / "certs"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def open_store(output: Path, store: Path) -> certificatestore.CertificateStore:
    return certificatestore.CertificateStore(str(output), str(store))


def provide(output: Path, mark: str, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        (output / name).unlink(missing_ok=True)
        (output / name).write_text(f"{name.split('-')[0].split('.')[0]} {mark}")


def survive(kill_at: int, action: Callable[[], None]) -> bool:
    """Run an action in a child that is killed at its nth system call on files; True if it lived."""
    child = os.fork()
    if child == 0:
        steps = 0

        def count(event: str, _args: tuple[object, ...]) -> None:
            nonlocal steps
            if event in ("open", "os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir"):
                steps += 1
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        action()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_first_files_appear_together_with_their_modes(output: Path, store: Path) -> None:
    before = os.umask(0o077)
    try:
        open_store(output, store).install(pair("1"))
    finally:
        os.umask(before)
    assert marks(output) == ("1", "1", "1")
    modes = [stat.S_IMODE((output / name).stat().st_mode) for name in NAMES]
    assert modes == [0o600, 0o644, 0o644]
    assert sorted(os.listdir(output)) == sorted(["..data", *NAMES])


def test_generation_before_stays_and_older_ones_go(output: Path, store: Path) -> None:
    for mark in "1234":
        open_store(output, store).install(pair(mark))
    assert marks(output) == ("4", "4", "4")
    assert sorted(marks(each)[0] or "" for each in store.glob("gen-*")) == ["3", "4"]


def test_spared_generation_outlives_renewals_and_is_shown_again(output: Path, store: Path) -> None:
    held = open_store(output, store)
    held.install(pair("1"))
    name = held.read().stored.name
    for mark in "234":
        held.install(pair(mark), spared=name)
    assert sorted(marks(each)[0] or "" for each in store.glob("gen-*")) == ["1", "3", "4"]
    assert [files.key for files in held.read().kept] == [b"key 3", b"key 1"]
    key = (store / name / "key.pem").stat()
    held.show(name)
    assert marks(output) == ("1", "1", "1")
    shown = (output / "key.pem").stat()
    assert (shown.st_ino, shown.st_mode, shown.st_mtime) == (key.st_ino, key.st_mode, key.st_mtime)
    assert [files.key for files in held.read().kept] == [b"key 4"]
    held.install(pair("5"))
    assert sorted(marks(each)[0] or "" for each in store.glob("gen-*")) == ["1", "5"]


def test_kept_generations_come_newest_first_past_the_padding(output: Path, store: Path) -> None:
    held = open_store(output, store)
    held.install(pair("1"))
    (store / "gen-000002").rename(store / "gen-999999")
    (output / "..data").unlink()
    (output / "..data").symlink_to(store / "gen-999999")
    held.install(pair("2"), spared="gen-999999")
    held.install(pair("3"), spared="gen-999999")
    assert [files.key for files in held.read().kept] == [b"key 2", b"key 1"]


def test_planted_generation_is_neither_read_nor_shown(output: Path, store: Path) -> None:
    held = open_store(output, store)
    held.install(pair("1"))
    victim = output.parent / "victim"
    victim.mkdir()
    provide(victim, "planted")
    (store / "gen-000099").symlink_to(victim)
    assert "planted" not in str(held.read().kept)
    with pytest.raises(HostUnsupported):
        held.show("gen-000099")
    assert marks(output) == ("1", "1", "1")


def test_generation_that_is_not_whole_is_not_shown(output: Path, store: Path) -> None:
    held = open_store(output, store)
    held.install(pair("1"))
    held.install(pair("2"))
    (half,) = held.read().kept
    (store / half.name / "root-cert.pem").unlink()
    with pytest.raises(HostUnsupported):
        held.show(half.name)
    assert marks(output) == ("2", "2", "2")


def test_file_dropped_over_our_link_is_kept_when_a_generation_is_shown_again(
    output: Path, store: Path
) -> None:
    held = open_store(output, store)
    held.install(pair("1"))
    name = held.read().stored.name
    held.install(pair("2"))
    provide(output, "operator", ("root-cert.pem",))
    held.show(name)
    assert marks(output) == ("1", "1", "1")
    assert len(list(store.glob("gen-*"))) <= 3
    held.release()
    assert marks(output) == (None, None, "operator")


def test_reader_that_opened_the_directory_keeps_a_whole_pair(output: Path, store: Path) -> None:
    open_store(output, store).install(pair("1"))
    seen = Path(os.path.realpath(output / "..data"))
    open_store(output, store).install(pair("2"))
    assert marks(seen) == ("1", "1", "1")


def test_provided_files_are_kept_and_given_back(output: Path, store: Path) -> None:
    provide(output, "operator")
    held = open_store(output, store)
    held.install(pair("1"))
    held.install(pair("2"))
    assert held.read().provided.root == b"root operator"
    held.release()
    assert marks(output) == ("operator",) * 3
    assert not any((output / name).is_symlink() for name in NAMES)
    assert sorted(os.listdir(output)) == sorted(NAMES)
    assert os.listdir(store) == []


def test_release_of_nothing_provided_leaves_nothing(output: Path, store: Path) -> None:
    held = open_store(output, store)
    held.install(pair("1"))
    held.release()
    held.release()
    assert os.listdir(output) == []


def test_operators_own_link_is_given_back_as_a_link(output: Path, store: Path) -> None:
    (output.parent / "mesh-root.pem").write_text("root elsewhere")
    (output / "root-cert.pem").symlink_to("../mesh-root.pem")
    held = open_store(output, store)
    held.install(pair("1"))
    assert held.read().provided.root == b"root elsewhere"
    held.release()
    assert os.readlink(output / "root-cert.pem") == "../mesh-root.pem"


def test_file_dropped_over_our_link_counts_as_newly_provided(output: Path, store: Path) -> None:
    provide(output, "first", ("root-cert.pem",))
    held = open_store(output, store)
    held.install(pair("1"))
    provide(output, "second", ("root-cert.pem",))
    seen = held.read()
    assert (seen.visible.root, seen.stored.root) == (b"root second", b"root 1")
    assert (seen.visible.key, seen.visible.chain) == (b"key 1", b"chain 1")
    held.install(pair("2"))
    assert marks(output) == ("2", "2", "2")
    assert held.read().provided.root == b"root second"


def test_planted_links_are_replaced_and_never_written_through(output: Path, store: Path) -> None:
    victim = output.parent / "victim"
    victim.mkdir()
    (victim / "key.pem").write_text("precious 0")
    (output / "key.pem").symlink_to(victim / "key.pem")
    (output / "..data").symlink_to(victim)
    (output / "..staged").symlink_to(victim / "key.pem")
    store.mkdir()
    (store / "gen-000001").symlink_to(victim)
    (store / "..staged").symlink_to(victim / "key.pem")
    held = open_store(output, store)
    held.install(pair("1"))
    held.install(pair("2"))
    assert marks(output) == ("2", "2", "2")
    assert (victim / "key.pem").read_text() == "precious 0"
    assert os.listdir(victim) == ["key.pem"]


def test_link_in_place_of_the_kept_directory_is_refused(output: Path, store: Path) -> None:
    victim = output.parent / "victim"
    victim.mkdir()
    store.mkdir()
    (store / "provided").symlink_to(victim)
    provide(output, "operator")
    with pytest.raises(HostUnsupported):
        open_store(output, store).install(pair("1"))
    assert os.listdir(victim) == []
    assert marks(output) == ("operator",) * 3


def test_directory_in_place_of_a_file_is_an_error_and_changes_nothing(
    output: Path, store: Path
) -> None:
    (output / "key.pem").mkdir()
    with pytest.raises(HostUnsupported, match="certificate files in"):
        open_store(output, store).install(pair("1"))
    assert (output / "key.pem").is_dir()


def test_store_on_another_file_system_works_alike(output: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == output.stat().st_dev:
        pytest.skip("needs /dev/shm as a second file system")
    with tempfile.TemporaryDirectory(dir=memory, prefix="hostagent-test-") as store:
        provide(output, "operator")
        held = open_store(output, Path(store))
        held.install(pair("1"))
        held.install(pair("2"))
        assert marks(output) == ("2", "2", "2")
        assert sorted(os.listdir(output)) == sorted(["..data", *NAMES])
        held.release()
        assert marks(output) == ("operator",) * 3


def test_second_writer_is_turned_away(output: Path, store: Path) -> None:
    held = open_store(output, store)
    with held.lock(), pytest.raises(KernelBusy), open_store(output, store).lock():
        pass
    with held.lock():
        pass


def test_kill_at_any_step_of_a_renewal_leaves_a_whole_pair(output: Path, store: Path) -> None:
    held = open_store(output, store)
    held.install(pair("0"))
    before = "0"
    has_lived, step = False, 0
    for step in range(1, MOST_STEPS):
        has_lived = survive(step, lambda mark=str(step): held.install(pair(mark)))  # type: ignore[misc]  # bound
        seen = marks(output)
        assert seen in ((before,) * 3, (str(step),) * 3)
        before = str(step)
        held.install(pair(before))
        assert marks(output) == (before,) * 3
        assert len(list(store.glob("gen-*"))) == 2
        if has_lived:
            break
    assert has_lived
    assert step > 5


def test_kill_at_any_step_of_showing_again_loses_neither_pair(output: Path, store: Path) -> None:
    held = open_store(output, store)
    held.install(pair("A"))
    first = held.read().stored.name
    has_lived, step = False, 0
    for step in range(1, MOST_STEPS):
        for mark in ("B", "C"):
            held.install(pair(mark), spared=first)
        last = held.read().stored.name
        has_lived = survive(step, lambda last=last: held.show(first, spared=last))  # type: ignore[misc]  # bound
        assert marks(output) in (("A",) * 3, ("C",) * 3)
        assert marks(store / first) == ("A",) * 3
        assert marks(store / last) == ("C",) * 3
        held.show(first, spared=last)
        assert marks(output) == ("A",) * 3
        assert len(list(store.glob("gen-*"))) <= 3
        if has_lived:
            break
    assert has_lived
    assert step > 5


def test_kill_at_any_step_of_a_renewal_spares_what_it_should(output: Path, store: Path) -> None:
    held = open_store(output, store)
    held.install(pair("A"))
    spared = held.read().stored.name
    has_lived, step = False, 0
    for step in range(1, MOST_STEPS):
        has_lived = survive(step, lambda: held.install(pair("B"), spared=spared))
        assert marks(store / spared) == ("A",) * 3
        held.install(pair("B"), spared=spared)
        assert marks(store / spared) == ("A",) * 3
        assert len(list(store.glob("gen-*"))) <= 3
        if has_lived:
            break
    assert has_lived
    assert step > 5


def test_kill_at_any_step_of_the_first_installation_never_mixes_pairs(tmp_path: Path) -> None:
    has_lived, step = False, 0
    for step in range(1, MOST_STEPS):
        output, store = tmp_path / f"certs{step}", tmp_path / f"store{step}"
        output.mkdir()
        provide(output, "operator")
        held = open_store(output, store)
        has_lived = survive(step, lambda held=held: held.install(pair("new")))  # type: ignore[misc]  # bound
        assert marks(output) in (("operator",) * 3, ("new",) * 3)
        held.install(pair("newer"))
        assert marks(output) == ("newer",) * 3
        held.release()
        assert marks(output) == ("operator",) * 3
        if has_lived:
            break
    assert has_lived
    assert step > 20


def test_kill_at_any_step_of_the_release_never_mixes_or_loses_pairs(tmp_path: Path) -> None:
    has_lived, step = False, 0
    for step in range(1, MOST_STEPS):
        output, store = tmp_path / f"certs{step}", tmp_path / f"store{step}"
        output.mkdir()
        provide(output, "operator")
        held = open_store(output, store)
        held.install(pair("ours"))
        has_lived = survive(step, held.release)
        assert marks(output) in (("operator",) * 3, ("ours",) * 3)
        held.release()
        assert marks(output) == ("operator",) * 3
        assert os.listdir(store) == []
        if has_lived:
            break
    assert has_lived
    assert step > 20
