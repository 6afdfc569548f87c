"""What is added to the operator's PROXY_CONFIG, as somebody else's YAML parser sees it."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.supervise import proxyconfig

ADDED = {"discoveryAddress": "cp:1", "binaryPath": "/opt/envoy"}
BLOCK = """\
concurrency: 2
proxyMetadata:
  discoveryAddress: nested
  TEXT: |
    one
      two

    three
"""


def read(text: str) -> Any:
    """The first document, which is the one that pilot-agent reads."""
    return next(iter(yaml.safe_load_all(text)), None)


def indented(text: str, by: int) -> str:
    return "".join(" " * by + line for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    "text",
    [
        BLOCK,
        indented(BLOCK, 4),
        "\n\n" + indented(BLOCK, 1),
        "# discoveryAddress: in a comment\n" + BLOCK,
        "concurrency: 2 # discoveryAddress: in a comment\n",
        "--- # the first of two\n" + BLOCK + "---\ndiscoveryAddress: in another document\n",
        "%YAML 1.1\n---\n" + BLOCK + "...\n",
        "%TAG ! tag:yaml.org,2002:\n---\nconcurrency: !int '2'\n",
        "--- {concurrency: 2}\n",
        "{concurrency: 2, discoveryAddress: mine:1, }",
        "    concurrency: 2\n    # discoveryAddress: x\n    proxyMetadata:\n        A: b\n",
        '{"concurrency": 2, "discoveryAddress": "mine:1"}',
        '{\n  "concurrency": 2,\n  "proxyMetadata": {"A": "discoveryAddress"}\n}\n',
        "{}",
        "discoveryAddress: mine:1",
        "'discoveryAddress': mine:1\r\nconcurrency: 2\r\n",
        '"discovery\\x41ddress": mine:1\n',
        "? discoveryAddress\n: mine:1\n",
        "!!map\ndiscoveryAddress: mine:1\n",
        "base: &base {discoveryAddress: mine:1}\n<<: *base\nconcurrency: 2\n",
        "text: 'one\n\n  two'\nconcurrency: 2",
        "text: one\n  two\n\n  three\n",
        "text: >-2\n    two more\n  none\n",
        "binaryPath: null\n",
        "\ufeffconcurrency: 2\n",
    ],
)
def test_what_the_operator_wrote_stays_as_it_is_and_ours_is_added(text: str) -> None:
    theirs = read(text)
    assert isinstance(theirs, dict)
    assert read(proxyconfig.add(text, ADDED)) == ADDED | theirs


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "---\n", "--- # nothing\n...\n"])
def test_without_a_text_ours_stands_alone(text: str) -> None:
    assert read(text) is None
    assert read(proxyconfig.add(text, ADDED)) == ADDED


@pytest.mark.parametrize("text", ["", BLOCK, "a: b: c", "no YAML: [", "\tx"])
def test_with_nothing_to_add_the_text_is_handed_over_untouched(text: str) -> None:
    assert proxyconfig.add(text, {}) == text


@pytest.mark.parametrize("text", ["a: b: c\n", "no YAML: [\n", "- a\n", "just words\n", "a: 'b\n"])
def test_what_is_no_mapping_is_left_to_its_reader_to_refuse(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        read(proxyconfig.add(text, ADDED))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_value_of_ours_is_a_text(value: str) -> None:
    for text in ("", "concurrency: 2"):
        assert read(proxyconfig.add(text, {"binaryPath": value}))["binaryPath"] == value


scalars = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\x85"))
    | st.sampled_from(
        ["one\ntwo\n", "  first\n more\n\n\n", "\n\nlast", "discoveryAddress: x", "# a"]
    )
    | st.integers()
    | st.booleans()
    | st.none()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=6,
)
keys = st.sampled_from([*ADDED, "concurrency", "proxyMetadata", "text", "<<x"])
styles = st.fixed_dictionaries(
    {
        "default_flow_style": st.sampled_from([True, False, None]),
        "default_style": st.sampled_from([None, None, "'", '"', "|", ">"]),
        "indent": st.integers(2, 6),
        "width": st.sampled_from([5, 20, 80]),
        "allow_unicode": st.booleans(),
        "explicit_start": st.booleans(),
        "explicit_end": st.booleans(),
    }
)


@given(
    st.dictionaries(keys, values, min_size=1, max_size=4), styles, st.integers(0, 5), st.booleans()
)
def test_any_mapping_in_any_style(
    theirs: dict[str, Any], style: dict[str, Any], further_in: int, has_carriage_returns: bool
) -> None:
    text = yaml.safe_dump(theirs, **style)
    # The marker of an end, which some texts need, is none where it is indented.
    if not style["explicit_start"] and not text.endswith("...\n"):
        text = indented(text, further_in)
    if has_carriage_returns:
        text = text.replace("\n", "\r\n")
    # Not `theirs`: PyYAML writes some texts at some widths so that it reads others back.
    assert read(proxyconfig.add(text, ADDED)) == ADDED | read(text)
