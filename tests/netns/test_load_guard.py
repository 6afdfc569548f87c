"""The script that loads the guard at boot, as the generator and as istio-redirect.service."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import netns

SCRIPT = Path(__file__).parents[2] / "systemd" / "load-guard"
GUARD = """table inet istio_guard
delete table inet istio_guard
table inet istio_guard {
	chain %s {
	}
}
"""
# As nftables.service loads what somebody has saved.
FLUSH = "flush ruleset\n"
SAVED = FLUSH + "table inet istio_guard {\n}\n"
NO_JSON = '#!/bin/sh\n[ "$1" != -j ] || exit 1\nexec "%s" "$@"\n'


@dataclass
class Boot:
    """A machine at boot: its network namespace, and the directories that the script looks at."""

    network: netns.Namespace
    directory: Path
    nft: str = ""  # in place of the one that is installed

    def load(self, *, is_generator: bool = False) -> subprocess.CompletedProcess[str]:
        state, notes = self.directory / "state", self.directory / "notes"
        places = f"mount --bind {state} /var/lib/istio-hostagent"
        places = f"mount -t tmpfs t /var/lib && mkdir /var/lib/istio-hostagent && {places}"
        places += " && mount -t tmpfs t /run && mkdir -p /run/systemd/generator"
        places += f" && mount --bind {notes} /run/systemd/generator"
        if self.nft:
            places += f" && mount --bind {self.nft} {shutil.which('nft')}"
        words = f"{SCRIPT} /run/systemd/generator" if is_generator else str(SCRIPT)
        return self.network.run(["unshare", "--mount", "sh", "-c", f"{places} && exec {words}"])

    def write(self, guard: str) -> None:
        """The guard of a host that has joined."""
        (self.directory / "state" / "guard.nft").write_text(guard)
        (self.directory / "state" / "joined").touch()

    def table(self) -> tuple[int, list[str]]:
        """Handle and chains of the guard; (0, []) if it is not there."""
        listing = json.loads(self.network.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]
        handles = [int(each["table"]["handle"]) for each in listing if "table" in each]
        chains = [str(each["chain"]["name"]) for each in listing if "chain" in each]
        return (handles[0] if handles else 0), chains


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    for name in ("state", "notes"):
        (tmp_path / name).mkdir()
    with netns.Namespace("boot") as network:
        made = Boot(network, tmp_path)
        made.write(GUARD % "now")
        yield made


def test_what_the_generator_has_loaded_is_left_alone(boot: Boot) -> None:
    assert boot.load(is_generator=True).returncode == 0
    before = boot.table()
    assert before[1] == ["now"]
    assert boot.load().returncode == 0
    assert boot.table() == before


def test_without_the_generator_it_is_loaded(boot: Boot) -> None:
    assert boot.load().returncode == 0
    assert boot.table()[1] == ["now"]


@pytest.mark.parametrize("text", [FLUSH, SAVED], ids=["nothing is left", "another one is there"])
@pytest.mark.parametrize("has_json", [True, False], ids=["json", "no json"])
def test_what_somebody_else_has_loaded_since_is_replaced(
    boot: Boot, tmp_path: Path, text: str, has_json: bool
) -> None:
    if not has_json:
        real = shutil.copy(str(shutil.which("nft")), tmp_path / "real")
        stub = tmp_path / "nft"
        stub.write_text(NO_JSON % real)
        stub.chmod(0o755)
        boot.nft = str(stub)
    boot.load(is_generator=True)
    assert boot.table()[1] == ["now"]
    boot.network.run(["nft", "-f", "-"], stdin=text, check=True)
    assert boot.load().returncode == 0
    assert boot.table()[1] == ["now"]


def test_a_file_that_has_changed_since_is_loaded(boot: Boot) -> None:
    boot.load(is_generator=True)
    boot.write(GUARD % "later")
    assert boot.load().returncode == 0
    assert boot.table()[1] == ["later"]


def test_a_note_that_was_cut_short_says_nothing(boot: Boot) -> None:
    boot.load(is_generator=True)
    (note,) = (boot.directory / "notes").iterdir()
    note.write_text("")
    boot.network.run(["nft", "-f", "-"], stdin=FLUSH, check=True)
    boot.load()
    assert boot.table()[1] == ["now"]


@pytest.mark.parametrize("is_generator", [True, False], ids=["generator", "unit"])
def test_a_host_that_has_not_joined_is_left_open(boot: Boot, is_generator: bool) -> None:
    (boot.directory / "state" / "joined").unlink()
    assert boot.load(is_generator=is_generator).returncode == 0
    assert boot.table() == (0, [])
    assert not list((boot.directory / "notes").iterdir())


def test_rules_of_legacy_tables_are_not_the_generators(boot: Boot) -> None:
    boot.write("#iptables-legacy\n")
    assert boot.load(is_generator=True).returncode == 0
    assert boot.table() == (0, [])
    assert not list((boot.directory / "notes").iterdir())
