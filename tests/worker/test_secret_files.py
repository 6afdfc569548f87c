"""The files of the secret server, seen by its watch alone: no change is missed on the way to them."""

import contextlib
import os
import select
import shutil
import threading
from pathlib import Path

import pytest

from istio_hostagent.host import secretfiles
from tests.lab import soak

ROUNDS = soak.times(150, 3000)


def wait_for_change(files: secretfiles.SecretFiles, timeout_s: float = 5.0) -> bool:
    """Whether anything is told that matters; what does not is taken away."""
    while select.select([files.descriptor], [], [], timeout_s)[0]:
        if files.has_changed():
            return True
    return False


def drain(files: secretfiles.SecretFiles) -> None:
    while wait_for_change(files, 0.0):
        pass


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    made = tmp_path / "generation"
    made.mkdir()
    (made / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    for name in ("cert-chain.pem", "root-cert.pem"):
        (made / name).write_text("-----BEGIN CERTIFICATE-----\n")
    return made


@pytest.mark.soak
def test_whatever_appears_at_any_moment_what_follows_is_told(
    tmp_path: Path, generation: Path
) -> None:
    """As when the agent starts: a directory, a link in it, the directory behind that, the files."""
    for number in range(ROUNDS):
        base = tmp_path / str(number)
        base.mkdir()
        output = base / "certs"
        files = secretfiles.SecretFiles(str(base / "state" / "current"))

        def make(base: Path = base, output: Path = output) -> None:
            (base / "state").mkdir()
            (base / "state" / "current").symlink_to(output)
            output.mkdir()

        making = threading.Thread(target=make)
        making.start()
        while making.is_alive():
            files.has_changed()
        drain(files)
        (output / "..data").symlink_to(generation)
        assert wait_for_change(files), f"round {number}"
        os.close(files.descriptor)


@pytest.mark.soak
def test_what_is_read_is_of_one_generation(tmp_path: Path, generation: Path) -> None:
    output = tmp_path / "certs"
    output.mkdir()
    others = [tmp_path / f"gen-{number}" for number in range(2)]
    for number, other in enumerate(others):
        shutil.copytree(generation, other)
        for path in other.iterdir():
            path.write_text(f"{path.read_text()}{number}")
    for name in ("key.pem", "cert-chain.pem", "root-cert.pem"):
        (output / name).symlink_to(f"..data/{name}")
    (output / "..data").symlink_to(others[0])
    files = secretfiles.SecretFiles(str(output))
    is_over = threading.Event()

    def swap() -> None:
        number = 0
        while not is_over.is_set():
            number = 1 - number
            (tmp_path / "new").symlink_to(others[number])
            (tmp_path / "new").rename(output / "..data")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(ROUNDS * 10):
            with contextlib.suppress(OSError):  # it is changing all the time
                read = files.read()
                assert len({text[-1:] for text in (read.key, read.chain, read.root)}) == 1
    finally:
        is_over.set()
        swapping.join()


def test_what_happens_beside_the_files_is_no_change(tmp_path: Path) -> None:
    output = tmp_path / "certs"
    output.mkdir()
    files = secretfiles.SecretFiles(str(output))
    (output / "token").write_text("x")
    (output / "..staged").symlink_to("x")
    (tmp_path / "other").mkdir()
    assert not wait_for_change(files, 0.1)
    (output / "key.pem").write_text("x")
    assert wait_for_change(files)


def test_a_flood_of_changes_that_the_kernel_has_cut_short_is_one(tmp_path: Path) -> None:
    output = tmp_path / "certs"
    output.mkdir()
    files = secretfiles.SecretFiles(str(output))
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    path = output / "token"
    for number in range(most + 10):
        # Two names in turn: equal events that follow one another are merged (inotify(7)).
        (path if number % 2 else output / "other").write_bytes(b"")
    assert wait_for_change(files)


def test_each_link_on_the_way_is_watched(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for number, target in enumerate(("one", "link-0", "link-1")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / f"link-{number}").symlink_to(tmp_path / target)
    (tmp_path / "2" / "current").symlink_to(tmp_path / "link-2")
    files = secretfiles.SecretFiles(str(tmp_path / "2" / "current"))
    (tmp_path / "new").symlink_to(tmp_path / "two")
    drain(files)
    (tmp_path / "new").rename(tmp_path / "link-0")
    assert wait_for_change(files)
    drain(files)
    (tmp_path / "one" / "key.pem").touch()
    assert not wait_for_change(files, 0.1)
    (tmp_path / "two" / "key.pem").touch()
    assert wait_for_change(files)


def test_links_in_a_circle_end_somewhere(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    files = secretfiles.SecretFiles(str(tmp_path / "a"))
    with pytest.raises(OSError, match="symbolic links"):
        files.read()
    (tmp_path / "c").symlink_to(tmp_path)
    (tmp_path / "c").rename(tmp_path / "b")
    assert wait_for_change(files)
