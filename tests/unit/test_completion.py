"""The shell completes what the command line has."""

import importlib
import subprocess
from pathlib import Path

import pytest

from istio_hostagent.cli import verbs

COMPLETION = Path(__file__).parents[2] / "etc" / "istio-hostagent.bash"
NAMES = [verb.name for verb in verbs.VERBS]


def complete(*words: str) -> list[str]:
    """What bash offers behind these words, the last of which is not finished."""
    script = """
        source "$1"; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _istio_hostagent
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "-euc", script, "bash", str(COMPLETION), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    assert not done.stderr
    return done.stdout.split()


def test_the_verbs_are_offered() -> None:
    assert sorted(complete("istio-hostagent", "")) == sorted([*NAMES, "--version", "--help"])
    assert complete("istio-hostagent", "ap") == ["apply"]


@pytest.mark.parametrize("verb", NAMES)
def test_all_options_of_a_verb_are_offered(verb: str) -> None:
    module = importlib.import_module(f"istio_hostagent.cli.{verb}")
    options = [f"--{option.name}" for option in module.OPTIONS if not option.is_word]
    assert sorted(complete("istio-hostagent", verb, "")) == sorted([*options, "--help"])
