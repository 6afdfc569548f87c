"""Which paths may name commands and binaries (design invariant 5)."""

import os
from pathlib import Path

import pytest

from istio_hostagent.host import ownership, trust

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    os.chmod(tmp_path, 0o755)
    return tmp_path


def make(path: Path, *, mode: int = 0o644, uid: int = 0) -> Path:
    path.write_text("A=1\n")
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def test_roots_own_file_in_roots_own_directory_is_trusted(place: Path) -> None:
    assert trust.probe_trust(str(make(place / "a.env"))).is_root_only


@pytest.mark.parametrize(("mode", "uid"), [(0o664, 0), (0o646, 0), (0o644, 1000)])
def test_a_file_that_others_can_change_is_named(place: Path, mode: int, uid: int) -> None:
    found = trust.probe_trust(str(make(place / "a.env", mode=mode, uid=uid)))
    assert not found.is_root_only
    assert str(place / "a.env") in found.detail
    assert f"{mode:04o}" in found.detail


def test_a_directory_on_the_way_that_others_own_is_named(place: Path) -> None:
    (place / "theirs").mkdir()
    os.chown(place / "theirs", 1000, 1000)
    found = trust.probe_trust(str(make(place / "theirs" / "a.env")))
    assert not found.is_root_only
    assert "theirs belongs to" in found.detail


def test_a_link_is_trusted_like_its_target(place: Path) -> None:
    (place / "theirs").mkdir(mode=0o777)
    os.chmod(place / "theirs", 0o777)
    make(place / "theirs" / "a.env")
    (place / "link.env").symlink_to(place / "theirs" / "a.env")
    assert not trust.probe_trust(str(place / "link.env")).is_root_only


def test_a_relative_link_and_parent_components_are_resolved(place: Path) -> None:
    (place / "sub").mkdir()
    make(place / "a.env")
    (place / "sub" / "link.env").symlink_to("../a.env")
    assert trust.probe_trust(str(place / "sub" / "link.env")).is_root_only


def test_a_directory_of_others_may_end_a_way_that_is_roots(place: Path) -> None:
    (place / "theirs" / "deep").mkdir(parents=True)
    os.chown(place / "theirs", 1000, 1000)
    os.chown(place / "theirs" / "deep", 1000, 1000)
    (place / "link").symlink_to("theirs")
    assert trust.is_way_roots(str(place / "theirs"))
    assert trust.is_way_roots(str(place / "link"))
    assert not trust.is_way_roots(str(place / "theirs" / "deep"))
    assert trust.is_way_roots(str(place / "nothing there yet"))
    assert not trust.is_way_roots(str(place / "theirs" / "nothing there yet"))
    (place / "theirs" / "out").symlink_to("/etc")
    assert not trust.is_way_roots(str(place / "theirs" / "out"))


def test_links_of_root_are_resolved_and_those_of_others_are_not(place: Path) -> None:
    (place / "run" / "secrets").mkdir(parents=True)
    (place / "var").symlink_to("run")
    (place / "up").symlink_to("run/../var")
    assert trust.resolve(str(place / "var" / "secrets" / "x")) == f"{place}/run/secrets/x"
    assert trust.resolve(str(place / "up" / "secrets")) == f"{place}/run/secrets"
    os.chown(place / "run" / "secrets", 1000, 1000)
    (place / "run" / "secrets" / "istio").symlink_to("/root")
    assert trust.resolve(str(place / "var/secrets/istio/x")) == f"{place}/run/secrets/istio/x"
    (place / "loop").symlink_to("loop")
    assert trust.resolve(str(place / "loop" / "x")) == f"{place}/loop/x"


def test_istio_proxys_own_files_are_told_from_those_of_others(place: Path) -> None:
    (place / "istio").mkdir()
    os.chown(place / "istio", 1000, 1000)
    path = str(make(place / "istio" / "a.env", uid=1000))
    owners = frozenset((0, 1000))
    assert ownership.find_weak(path, owners) is None
    os.chmod(path, 0o664)
    weak = ownership.find_weak(path, owners)
    assert weak is not None
    assert weak[0] == path
    os.chmod(path, 0o644)
    os.chown(place / "istio", 1001, 1000)
    weak = ownership.find_weak(path, owners)
    assert weak is not None
    assert weak[0] == str(place / "istio")


def test_a_loop_of_links_is_an_error_and_not_a_hang(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        trust.probe_trust(str(place / "a"))


def test_a_sticky_directory_protects_roots_files_only(place: Path) -> None:
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert trust.probe_trust(str(make(shared / "root.env"))).is_root_only
    assert not trust.probe_trust(str(make(shared / "user.env", uid=1000))).is_root_only
