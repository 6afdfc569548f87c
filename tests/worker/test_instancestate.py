"""The state of an agent with a name: where it lies, and how it comes there from where it lay."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from istio_hostagent.host import (
    certificatefiles,
    certificatestore,
    generations,
    instances,
    instancestate,
)
from istio_hostagent.host.mounts import Mounts
from istio_hostagent.host.processes import User
from istio_hostagent.host.sights import Sights

FILES = generations.Files(b"key", b"chain", b"root")
ME = User(os.geteuid(), os.getegid())
NAME = "shop"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv(instances.KEY, NAME)
    (tmp_path / "state").mkdir()
    return {"STATE_DIRECTORY": f"{tmp_path}/state"}


def obtain(state: str) -> None:
    """Put a certificate where an agent of this state directory has its own."""
    os.makedirs(state, exist_ok=True)
    output = f"{state}/certificate"
    files = certificatefiles.CertificateFiles(state, Sights(Mounts()))
    store = files.make_store(output, ME)
    certificatestore.CertificateStore(output, store).install(FILES)
    Path(state, "joined").write_text("then")


def check(state: str) -> None:
    """It is there as if it had never been elsewhere."""
    output = f"{state}/certificate"
    store = certificatefiles.find_store(state, output)
    assert (
        certificatestore.CertificateStore(output, store).read().stored.content() == FILES.content()
    )
    files = certificatefiles.CertificateFiles(state, Sights(Mounts()))
    assert files.find_stores() == ((store, output),)
    assert files.make_store(output, ME) == store
    assert os.readlink(f"{state}/certs/current") == output
    assert Path(state, "joined").read_text() == "then"


def test_it_lies_apart_from_what_the_hosts_own_agent_keeps(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert instances.find_places(environment).state_dir == f"{tmp_path}/state/instances/{NAME}"


def test_what_an_earlier_version_has_left_is_moved(
    environment: dict[str, str], tmp_path: Path
) -> None:
    earlier = f"{tmp_path}/state/{NAME}"
    obtain(earlier)
    assert instancestate.settle(environment) == earlier
    check(f"{tmp_path}/state/instances/{NAME}")
    assert os.listdir(tmp_path / "state") == ["instances"]
    assert instancestate.settle(environment) == ""


def count_calls(monkeypatch: pytest.MonkeyPatch, kill_at: int) -> None:
    """Let the nth change of a name raise, as a kill there would end everything."""
    count = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == kill_at:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return call

    for each in ("rename", "symlink", "unlink"):
        monkeypatch.setattr(os, each, counted(getattr(os, each)))


def test_killed_on_the_way_it_is_moved_by_the_next_start(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for kill_at in range(1, 40):
        state = tmp_path / f"state{kill_at}"
        state.mkdir()
        environment["STATE_DIRECTORY"] = str(state)
        obtain(f"{state}/{NAME}")
        with pytest.MonkeyPatch.context() as patched:
            count_calls(patched, kill_at)
            try:
                instancestate.settle(environment)
            except KeyboardInterrupt:
                is_through = False
            else:
                is_through = True
        instancestate.settle(environment)
        check(f"{state}/instances/{NAME}")
        if is_through:
            assert kill_at > 5
            return
    pytest.fail("it has no end")


@pytest.mark.parametrize("name", ["certs", "outputs", "certificate", "enabled", "instances"])
def test_what_is_the_hosts_own_is_never_moved(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(instances.KEY, name)
    own = tmp_path / "state" / name
    own.mkdir()
    (own / "joined").write_text("then")
    assert instancestate.settle(environment) == ""
    assert own.is_dir()
    assert instancestate.find_others(str(tmp_path / "state")) == ()


def test_a_directory_without_any_sign_of_an_agent_is_somebodys(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "state" / NAME).mkdir()
    assert instancestate.settle(environment) == ""
    (tmp_path / "state" / NAME / "joined").write_text("then")
    assert instancestate.find_others(str(tmp_path / "state")) == (NAME,)
