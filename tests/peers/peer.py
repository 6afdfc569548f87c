"""What there is to say about a peer beyond its go.mod, and how a program of it is tried out.

Each directory with a go.mod beside this file is a package whose PEER is one of these.
"""

import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.package.overlay import CommandFailed

TRIAL_LIMIT_S = 60.0


@dataclass(frozen=True)
class Trial:
    """A program is given files to read and shows what it understood.

    A module whose `replace` line was lost is often noticed only here, not when it is built.
    """

    program: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]  # all of it, on either output; the end of the program is not waited for


@dataclass(frozen=True)
class Copied:
    """A file that comes from the source of a module as it is."""

    module: str
    path: str


@dataclass(frozen=True)
class Peer:
    """One trial, at least, for each program that the `tool` lines of its go.mod name."""

    trials: tuple[Trial, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)  # file name to text, for the trials
    environment: Mapping[str, str] = field(default_factory=dict)  # all that the trials have
    copied: tuple[Copied, ...] = ()
    # What Go calls a program to what its own build scripts call it.
    renamed: Mapping[str, str] = field(default_factory=dict)
    # Variable of a package to text: what a program's own build scripts have the linker set.
    stamped: Mapping[str, str] = field(default_factory=dict)

    def try_out(self, programs: Path) -> None:
        """Try every program in a directory; raises CommandFailed."""
        tried = {trial.program for trial in self.trials}
        if untried := {path.name for path in programs.iterdir()} - tried:
            raise CommandFailed(f"nothing tries {', '.join(sorted(untried))} out")
        for trial in self.trials:
            with tempfile.TemporaryDirectory(prefix="hostagent-peer-") as name:
                directory = Path(name)
                for file, text in self.inputs.items():
                    (directory / file).write_text(text)
                self._run(trial, programs, directory)

    def _run(self, trial: Trial, programs: Path, directory: Path) -> None:
        process = subprocess.Popen(
            [str(programs / trial.program), *trial.arguments],
            cwd=directory,
            env={"HOME": str(directory), **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        deadline = time.monotonic() + TRIAL_LIMIT_S
        said = b""
        with process, selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while missing := [words for words in trial.says if words.encode() not in said]:
                selector.select(max(0.0, deadline - time.monotonic()))
                chunk = b""
                if time.monotonic() < deadline:
                    chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    break
                said += chunk
            process.kill()
        if missing:
            command = " ".join([trial.program, *trial.arguments])
            text = said.decode(errors="replace")
            raise CommandFailed(f"{command}: does not say {missing[0]!r}\n{text}")
