"""Build other people's programs for the tests, from the versions that a go.mod and go.sum pin.

    .venv/bin/python -m tests.peers.build [NAME...]

builds what is missing and prints where it is. Each directory with a go.mod beside this file is a
peer. Nothing of theirs is kept in this repository: sources come by way of the Go module proxy,
and go.sum says what they must be. Programs lie in the user's cache, under a name that changes
with everything they are made from; an interrupted build leaves none, and neither does one whose
programs fail their trial (peer.py).
"""

import argparse
import hashlib
import importlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.package import overlay
from tests.package.overlay import CommandFailed
from tests.peers import go
from tests.peers.peer import Peer

HERE = Path(__file__).parent
# Symbols for a debugger are half of a program.
BUILD = ("build", "-trimpath", "-ldflags=-s -w")


def names() -> list[str]:
    """Return every peer there is."""
    return sorted(path.parent.name for path in HERE.glob("*/go.mod"))


def directory(name: str) -> Path:
    """Return where the programs of a peer are, or will be."""
    peer = _peer(name)
    digest = hashlib.sha256(repr((_build_words(peer.stamped), peer.copied)).encode())
    for file in ("go.mod", "go.sum"):
        digest.update((HERE / name / file).read_bytes())
    text = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(text) if text.startswith("/") else Path.home() / ".cache"
    return cache / "istio-hostagent/peers" / f"{name}-{digest.hexdigest()[:12]}"


def build(name: str) -> Path:
    """Return the directory of a peer's programs, building them if needed; raises CommandFailed."""
    target = directory(name)
    with overlay.locked(target):
        if not target.is_dir():
            sys.stderr.write(f"building {name}: this takes minutes, once\n")
            for draft in target.parent.iterdir():
                if overlay.is_stale(draft.name):
                    shutil.rmtree(draft, ignore_errors=True)
            with overlay.finished(target) as draft:
                _build(name, draft)
    return target


def _build(name: str, draft: Path) -> None:
    source = HERE / name
    peer = _peer(name)
    program = str(go.find(go.parse_wanted((source / "go.mod").read_text())))
    environment = go.environment()
    command = [program, *_build_words(peer.stamped), "-o", f"{draft}/", "tool"]
    overlay.run_checked(command, cwd=source, env=environment)
    for built, called in peer.renamed.items():
        (draft / built).rename(draft / called)
    peer.try_out(draft)
    for copied in peer.copied:
        ask = [program, "list", "-m", "-f", "{{.Dir}}", copied.module]
        module = overlay.run_checked(ask, cwd=source, env=environment).strip()
        shutil.copyfile(Path(module, copied.path), draft / Path(copied.path).name)


def _build_words(stamped: Mapping[str, str]) -> tuple[str, ...]:
    *words, linker = BUILD
    set_variables = [f"-X {variable}={text}" for variable, text in stamped.items()]
    return (*words, " ".join([linker, *set_variables]))


def _peer(name: str) -> Peer:
    found = importlib.import_module(f"tests.peers.{name}").PEER
    assert isinstance(found, Peer)
    return found


def main() -> int:
    """Build the peers that are named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="tests.peers.build", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(names()))
    wanted = parser.parse_args().names or names()
    if unknown := set(wanted) - set(names()):
        parser.error(f"no peer: {' '.join(sorted(unknown))}")
    status = 0
    for name in wanted:
        try:
            sys.stdout.write(f"{build(name)}\n")
        except CommandFailed as failure:
            sys.stderr.write(f"{name} is not there: {failure}\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
