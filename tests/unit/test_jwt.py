"""What is said about a bootstrap token that the CA does not take."""

import base64
import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.identity import token

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def encode(claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'ES256'})}.{part(claims)}.c2lnbmF0dXJl"


def claims(**changed: object) -> dict[str, object]:
    moment = NOW.timestamp()
    usual = {
        "sub": "system:serviceaccount:vms:web",
        "aud": ["istio-ca"],
        "nbf": moment - 5,
        "exp": moment + 3600,
    }
    return {name: value for name, value in {**usual, **changed}.items() if value is not None}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param(
            {"exp": NOW.timestamp() - 7200}, "expired on 2026-03-01 10:00:00 UTC, 2 hours ago",
            id="expired",
        ),
        pytest.param({"nbf": NOW.timestamp() + 600}, "10 minutes ahead of this host", id="early"),
        pytest.param({"aud": ["api"]}, "is meant for api (claim aud), not for istio-ca", id="aud"),
        pytest.param({"aud": None}, "is meant for nobody", id="no aud"),
        pytest.param({"aud": "istio-ca"}, "must be a list", id="aud as text"),
        pytest.param({"exp": None}, "has no exp claim", id="no exp"),
        pytest.param({}, "subject system:serviceaccount:vms:web, valid for another 60", id="good"),
        pytest.param({"exp": "soon"}, "exp claim is no number", id="exp as text"),
        pytest.param({"exp": 1e300}, "exp claim is no moment", id="exp beyond all time"),
    ],
)  # fmt: skip
def test_each_fault_is_named(changed: dict[str, object], words: str) -> None:
    assert words in token.explain(encode(claims(**changed)), NOW)


@pytest.mark.parametrize("text", ["", "abc", "a.b", "a.b.c", "a.!!!.c", encode([1]), "a..c"])
def test_what_is_no_jwt_is_called_so_and_not_called_expired(text: str) -> None:
    assert token.explain(text, NOW).startswith("is not a JWT")
    assert not token.is_expired(text, NOW)


def test_start_a_minute_ahead_is_tolerated_as_istiod_does() -> None:
    early = encode(claims(nbf=NOW.timestamp() + 59))
    assert token.explain(early, NOW).startswith("looks right")


def test_expiry_is_exact() -> None:
    text = encode(claims(exp=NOW.timestamp()))
    assert token.is_expired(text, NOW)
    assert not token.is_expired(text, NOW - timedelta(seconds=1))


def test_no_explanation_holds_the_token_or_control_characters() -> None:
    text = encode(claims(sub="x\n\x1b[31m", aud=["\nroot"]))
    sentence = token.explain(text, NOW)
    assert sentence.isprintable()
    assert not any(part in sentence for part in text.split("."))


@given(st.text(max_size=300))
def test_any_text_is_explained_in_one_line(text: str) -> None:
    assert token.explain(text, NOW).isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_any_claim_is_explained_in_one_line(value: object) -> None:
    for name in ("exp", "nbf", "aud", "sub"):
        assert token.explain(encode(claims(**{name: value})), NOW).isprintable()


@pytest.mark.parametrize(
    "content",
    ['"{}"', "Bearer {}", "token={}", "\ufeff{}", '{{"token":"{}"}}', " {}\n{}"],
    ids=["quotes", "Bearer", "name", "byte order mark", "JSON", "wrapped"],
)
def test_command_that_is_shown_runs_nothing_that_stands_in_the_path(
    tmp_path: Path, content: str
) -> None:
    """Who may write cluster.env chooses the path, and root runs the command."""
    half = encode(claims())
    directory = tmp_path / "a$(touch planted) b;touch planted"
    directory.mkdir()
    path = directory / "istio-token"
    text = content.format(half[:20], half[20:]) if "{}\n{}" in content else content.format(half)
    path.write_text(text)
    command = token.find_mistake(path.read_bytes(), str(path)).split("mend it with: ", 1)[1]
    if "jq " not in command or shutil.which("jq"):
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
        assert path.read_text().strip() == half
    assert not (tmp_path / "planted").exists()
