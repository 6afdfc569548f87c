"""What we have to say in PROXY_CONFIG, beside what the operator has written there.

His text is YAML of any form, and it is not read here: a parser would be a library, and half of one
a guess. It becomes, as a whole and two blanks further in, the first of two mappings that YAML
itself merges (the key `<<`, https://yaml.org/type/merge.html), of which the first has the say.
go-yaml merges them, which every pilot-agent uses, and so does PyYAML in the tests.

Always: without anything to add, his text is handed over as it is.
"""

import json
from collections.abc import Mapping

_INDENT = "  "
# Where YAML begins or ends a document: at the begin of a line, before white space.
_BEGIN, _END = "---", "..."
_BYTE_ORDER_MARK = "\ufeff"


def add(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with these values for keys of its top level that it does not have itself."""
    if not values:
        return text
    directives, document = _first_document(text)
    if all(_is_empty(line) for line in document):
        return "".join(f"{key}: {_quote(value)}\n" for key, value in values.items())
    body = "".join(_INDENT + line for line in document)
    if not body.endswith(("\n", "\r")):
        body += "\n"
    ours = ", ".join(f"{_quote(key)}: {_quote(value)}" for key, value in values.items())
    return f"{directives}<<:\n-\n{body}- {{{ours}}}\n"


def _first_document(text: str) -> tuple[str, list[str]]:
    """Return its directives, with the marker that ends them, and its lines without markers.

    Of several documents pilot-agent reads the first one.
    """
    lines = text.removeprefix(_BYTE_ORDER_MARK).splitlines(keepends=True)
    head = 0
    while head < len(lines) and (_is_empty(lines[head]) or lines[head].startswith("%")):
        head += 1
    directives = ""
    if head < len(lines) and _is_marker(lines[head], _BEGIN):
        directives = "".join(line for line in lines[:head] if line.startswith("%"))
        lines = [lines[head].replace(_BEGIN, "", 1), *lines[head + 1 :]]
    ends = (
        number
        for number, line in enumerate(lines)
        if _is_marker(line, _BEGIN) or _is_marker(line, _END)
    )
    return directives and f"{directives}{_BEGIN}\n", lines[: next(ends, len(lines))]


def _is_marker(line: str, marker: str) -> bool:
    return line.startswith(marker) and not line[len(marker) :][:1].strip()


def _is_empty(line: str) -> bool:
    """Whether there is nothing but a comment."""
    content = line.strip()
    return not content or content.startswith("#")


def _quote(text: str) -> str:
    """Return a text between double quotes, in printable ASCII."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(
        each if each.isascii() and each.isprintable() else f"\\U{ord(each):08x}" for each in quoted
    )
