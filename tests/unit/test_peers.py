"""How the peers are built: which Go, under which name, and that a broken program is noticed."""

import dataclasses
from pathlib import Path

import pytest

from tests.package.overlay import CommandFailed
from tests.peers import build, go
from tests.peers.peer import Peer, Trial


@pytest.mark.parametrize(
    ("line", "wanted"),
    [("go 1.26.0", (1, 26, 0)), ("go 1.27", (1, 27))],
    ids=lambda each: str(each),
)
def test_the_go_line_tells_which_go(line: str, wanted: go.Version) -> None:
    assert go.parse_wanted(f"module x\n\n{line}\n\ntoolchain go9.9.9\n") == wanted


def test_a_go_mod_without_go_line_is_refused() -> None:
    with pytest.raises(ValueError, match="no line"):
        go.parse_wanted("module x\n")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64\n", (1, 26, 8)),
        ("go version go1.30 X:nocoverageredesign linux/arm64", (1, 30)),
        ("go version go1.27rc2 linux/amd64", (1, 27)),
        ("go version devel go1.28-a1b2c3 linux/amd64", ()),
        ("The Go board game", ()),
    ],
)
def test_what_go_says_of_itself_is_understood(text: str, version: go.Version) -> None:
    assert go.parse_version(text) == version


def test_the_go_of_the_path_is_taken_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "go"
    program.write_text("#!/bin/sh\n[ $GOTOOLCHAIN = local ] && echo go version go99.1 linux/x\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert go.find((99, 1)) == program


def test_the_flags_of_the_caller_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("GOROOT", "/elsewhere")
    monkeypatch.delenv("HOME", raising=False)
    environment = go.environment()
    assert environment["GOFLAGS"] == "-mod=readonly"
    assert "GOROOT" not in environment
    assert environment["HOME"]


def test_programs_lie_in_the_cache_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.directory("istio").parent == tmp_path / "istio-hostagent/peers"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert build.directory("istio").parent == Path.home() / ".cache/istio-hostagent/peers"


def test_programs_with_other_stamps_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.directory("kubernetes")
    peer = dataclasses.replace(build._peer("kubernetes"), stamped={"x.y": "z"})
    monkeypatch.setattr("tests.peers.kubernetes.PEER", peer)
    assert build.directory("kubernetes") != before


def program(directory: Path, script: str) -> Path:
    directory.mkdir()
    made = directory / "tool"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    return directory


READS = Peer(
    trials=(Trial("tool", ("file",), says=("one", "two")),),
    inputs={"file": "one\ntwo\n"},
    environment={"PATH": "/usr/bin:/bin"},
)


def test_a_trial_ends_when_everything_was_said(tmp_path: Path) -> None:
    READS.try_out(program(tmp_path / "programs", 'cat "$1"; exec sleep 600'))


def test_a_program_that_does_not_understand_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"does not say 'two'(?s:.*)panic"):
        READS.try_out(program(tmp_path / "programs", 'head -n1 "$1"; echo panic >&2'))


def test_a_program_without_a_trial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="nothing tries tool out"):
        Peer(trials=()).try_out(program(tmp_path / "programs", "exit 0"))
