"""Verbs of `istio-hostagent mesh` as an administrator types them, with the libraries users have."""

import os
import subprocess
from pathlib import Path

from tests.lab.host import CHECKOUT, PYTHON

LIMIT_S = 120.0


class Admin:
    """A user with a home directory and a kubeconfig."""

    def __init__(self, home: Path, kubeconfig: Path | None = None) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        self.environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(CHECKOUT),
        }
        if kubeconfig is not None:
            self.environment["KUBECONFIG"] = str(kubeconfig)

    def mesh(self, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a verb in the home directory."""
        return subprocess.run(
            self.argv(*words),
            env={**self.environment, **environment},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def argv(self, *words: str | Path) -> list[str]:
        """Return its command line."""
        return [PYTHON, "-m", "istio_hostagent", "mesh", *map(str, words)]

    def did(self, *words: str | Path, **environment: str) -> str:
        """Run a verb that must succeed and return its standard output."""
        done = self.mesh(*words, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def read(self, name: str) -> str:
        """Return a file of the home directory."""
        return (self.home / name).read_text()
