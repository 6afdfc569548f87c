"""Any input at all: only problems come out, in time, and where there are none bash agrees."""

import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from istio_hostagent.config import build, envfile, model
from istio_hostagent.errors import Problem
from tests.lab import soak

FACTS = model.HostFacts(1337, 1337)
TRUST = model.Trust(is_root_only=True)

PIECES = st.sampled_from([
    "A", "B", "C", "=", "a", "b", " ", "\t", "\n", "\\", "\\\n", "'", '"', "$", "${", "}", "$A", "${B}", "$'", "#",
    "export ", "\nA=", "\nB=", "\nexport C=", "~", ":", "{", ",", "`", "$(", ")", ";", "|", "&", "<", ">", "*", "?", "[", "]",
    "!", "+", "-", ".", "\\x41", "\\303", "\\251", "\\u00e9", "\\n", "\\c", "\\0", "é", "\u00a0", "\x01", "0", "7",
])  # fmt: skip
SHELL_TEXT = st.lists(PIECES, max_size=24).map(lambda pieces: "A=" + "".join(pieces))
KEYS = st.sampled_from([
    "ISTIO_SERVICE_CIDR", "ISTIO_INBOUND_PORTS", "ISTIO_SYSTEM_NAMESPACE", "PROV_CERT", "CA_ROOT_CA", "CA_ADDR",
    "OUTPUT_CERTS", "SECRET_TTL", "SECRET_GRACE_PERIOD_RATIO", "ENVOY_PORT", "PILOT_ADDRESS", "ISTIO_PILOT_PORT",
    "ISTIO_SVC_IP", "TRUST_DOMAIN", "CA_HEADER_X", "CA_HEADER_", "ISTIO_META_X", "UNKNOWN", "LD_PRELOAD", "ISTIOD_SAN",
])  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=30),
    st.text("0123456789.:/,*-[]abf hms%\\", max_size=30),
    st.sampled_from(["*", "1:2", "10.0.0.0/8", "istiod:15012", "[::1]:1", "1e9", "9" * 5000 + "h", "nan", "inf"]),
)  # fmt: skip


@given(st.binary(max_size=200))
@example(b"A='\n")
@example(b"\xef\xbb\xbf")
def test_any_bytes_give_an_outcome_and_nothing_else(data: bytes) -> None:
    found = envfile.parse_bytes(data, "f", {})
    assert all(isinstance(problem, Problem) for problem in found.problems)
    assert all(0 <= problem.line <= data.count(b"\n") + 1 for problem in found.problems)


@given(SHELL_TEXT)
def test_lines_of_problems_and_assignments_are_in_the_file(text: str) -> None:
    found = envfile.parse_envfile(text, "f", {})
    last = text.count("\n") + 1
    assert all(1 <= problem.line <= last for problem in (*found.problems, *found.warnings))
    lines = [assignment.line for assignment in found.assignments]
    assert lines == sorted(lines)
    assert not lines or lines[-1] <= last


@given(st.dictionaries(KEYS, VALUES, max_size=6), st.booleans())
def test_any_values_give_either_a_configuration_or_problems(
    values: Mapping[str, str], is_root_only: bool
) -> None:
    text = "".join(f"{key}={quote(value)}\n" for key, value in values.items() if "\0" not in value)
    trust = model.Trust(is_root_only, "" if is_root_only else "the directory is istio-proxy's")
    data = text.encode("utf-8", "surrogatepass")
    outcome = build.build_config([model.Layer("f", data, trust)], FACTS)
    assert (outcome.config is None) == bool(outcome.problems)
    assert list(outcome.problems) == sorted(outcome.problems)


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=60))
def test_quoted_as_istioctl_does_every_value_comes_back(value: str) -> None:
    found = envfile.parse_envfile(f"A={quote(value)}\n", "f", {})
    assert [assignment.value for assignment in found.assignments] == [value]


def quote(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"


@settings(max_examples=soak.times(150, 5000), suppress_health_check=[HealthCheck.filter_too_much])
@given(SHELL_TEXT)
@example("A=\nexport ")  # which lists what is exported
@example("A=$'\\x41\\u00e9' export\nB=a\\\n#b C=$A")
def test_what_is_accepted_means_the_same_to_bash(text: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    found = envfile.parse_envfile(text, "f", {})
    if found.problems:
        return
    ours = {"A": "", "B": "", "C": ""}
    ours.update((a.key, a.value) for a in found.assignments if a.key in ours)
    # Restricted and without a search path, so that a mistake of ours could start nothing.
    script = 'eval "$1"\nprintf "\\0%s" "$A" "$B" "$C"'
    done = subprocess.run(
        [bash, "--norc", "--noprofile", "-r", "-c", script, "bash", text],
        env={"PATH": "/nonexistent", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    assert done.stdout.decode("utf-8", "surrogateescape").split("\0")[-3:] == list(ours.values())


HOSTILE = {
    "one quote a line": b"A='\n" * 262_144,
    "escaped quotes": b'A="\\"\n' * 170_000,
    "continuations": b"A=\\\n" * 262_144,
    "blanks": b" " * 1_000_000,
    "blanks before nothing": (b"A" + b" " * 1000 + b"x\n") * 1000,
    "one long name": b"a" * 1_000_000,
    "names to export": b"export " + b"a " * 500_000,
    "open braces": b"A=" + b"${" * 500_000,
    "dollars": b"A=" + b"$" * 1_000_000,
    "bytes in ansi": b"A=$'" + b"\\xc3\\xa9" * 120_000 + b"'",
    "expansions": b"A=0123456789\n" + b"B=$A$A$A$A$A$A$A$A$A$A\n" * 45_000,
    "settings": b"A=1\n" * 262_144,
    "unknown keys": "".join(f"K{n}=\n" for n in range(100_000)).encode(),
    "digits": b"SECRET_TTL=" + b"9" * 1_000_000,
    "stops": b"CA_ADDR=" + b"a." * 500_000 + b"!:1",
    "ports": b"ISTIO_INBOUND_PORTS=" + b",".join(b"%d" % n for n in range(1, 65536)) * 2,
    "commas": b"ISTIO_SERVICE_CIDR=" + b"," * 1_000_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_takes_no_more_than_seconds(data: bytes) -> None:
    started = time.process_time()
    build.build_config([model.Layer("f", data[: envfile.MAX_BYTES], TRUST)], FACTS)
    assert time.process_time() - started < 10


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    touch = f"touch {mark}"
    forms = [
        "A=$(%s)", "A=`%s`", 'A="$(%s)"', 'A="`%s`"', "A=1; %s", "A=1 %s", "%s", "A=x|%s", "A=x & %s", "A=<(%s)",
        "A=${B:=$(%s)}", "A[$(%s)]=1", "A=$((B[$(%s)]))", "if %s; then :; fi", "eval '%s'", "trap '%s' EXIT",
        "A='\n%s\n'", "\0%s", "export A=$(%s)", "PROMPT_COMMAND='%s'", "BASH_ENV=$(%s)",
    ]  # fmt: skip
    for form in forms:
        data = (form.replace("%s", touch) + "\n").encode()
        build.build_config([model.Layer("f", data, TRUST)], FACTS)
    assert not mark.exists()
