"""The shell completes what the command line has."""

import argparse
import importlib
import subprocess
from pathlib import Path

import pytest

from istio_hostagent.cli import mesh, verbs

COMPLETION = Path(__file__).parents[2] / "etc" / "istio-hostagent.bash"
NAMES = [verb.name for verb in verbs.VERBS]
LEAVES = [verb.name for verb in verbs.VERBS if not verb.has_verbs]


def complete(*words: str) -> list[str]:
    """What bash offers behind these words, the last of which is not finished."""
    script = """
        source "$1"; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _istio_hostagent
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "-euc", script, "bash", str(COMPLETION), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    return done.stdout.split()


def test_the_verbs_are_offered() -> None:
    assert sorted(complete("istio-hostagent", "")) == sorted(
        [*NAMES, "--instance", "--version", "--help"]
    )
    assert complete("istio-hostagent", "ap") == ["apply"]


@pytest.mark.parametrize("verb", LEAVES)
def test_all_options_of_a_verb_are_offered(verb: str) -> None:
    module = importlib.import_module(f"istio_hostagent.cli.{verb}")
    options = [f"--{option.name}" for option in module.OPTIONS if not option.is_word]
    assert sorted(complete("istio-hostagent", verb, "")) == sorted([*options, "--help"])


def test_the_verbs_of_mesh_are_offered_by_both_names() -> None:
    names = {verb.words[0] for verb in mesh.VERBS} | {verb.alias for verb in mesh.VERBS} - {""}
    assert set(complete("istio-hostagent", "mesh", "")) == {*names, "--help"}
    words = ("istio-hostagent", "mesh", "workload")
    assert complete(*words, "") == ["entry", "--help"]
    assert complete(*words, "entry", "") == ["configure", "--help"]


@pytest.mark.parametrize("verb", mesh.VERBS, ids=lambda verb: verb.name)
def test_all_options_of_a_verb_of_mesh_are_offered(verb: mesh.Verb) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"istio_hostagent.cli.mesh.{verb.module}").add_options(parser, {})
    # Of several spellings of an option that of this program; words that have few values, too.
    wanted = {
        next(name for name in action.option_strings if name.startswith("--"))
        for action in parser._actions
        if action.option_strings
    }
    wanted |= {each for each in ("all",) for action in parser._actions if action.dest == each}
    for words in (verb.words, [verb.alias]):
        if words != [""]:
            assert set(complete("istio-hostagent", "mesh", *words, "")) == wanted
