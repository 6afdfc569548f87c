"""Environment files as data: `KEY=value` and `export KEY=value`, with the line of each.

Supported is what people and `istioctl` write: comments, all of bash's quoting, line continuation,
CRLF, a byte order mark, several assignments on a line, `$NAME` and `${NAME}` of earlier keys (one
without a value expands to nothing, as in bash, and is a warning). Everything else that bash knows
would run code or need a shell's state and is a `Problem`.

Not here: which keys exist (`settings`) and what a word is (`words`). Nothing is executed; nothing
but `EnvFile` comes out, whatever the input; the time is linear in the size of the input.
"""

import re
from collections import ChainMap
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import Problem
from . import words

MAX_BYTES = 4 << 20  # a quarter of a million networks
MAX_PROBLEMS = 50

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANKS = re.compile(r"(?:[ \t]|\\\n)*")
_FIRST_WORD = re.compile(r"[a-z]+|[.{(]|\[\[?")
_SPACED_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*[ \t]+=")
_NAMES_AND_VALUES = "export with names and values mixed is not supported: write one setting a line"
_NOTHING_RUNS = "nothing in this file is run"
_STATEMENTS = (
    (". source", "reading another file is not supported: copy its settings here"),
    ("set shopt", "shell options are not supported and not needed: the agent sees every key"),
    ("unset", "unset is not supported: remove the line that sets the key, or write KEY="),
    (
        "declare typeset local readonly alias eval exec exit return echo printf test",
        f"shell commands are not supported: {_NOTHING_RUNS}",
    ),
    (
        "if then else elif fi for while until do done case esac function { ( [[",
        f"control structures of the shell are not supported: {_NOTHING_RUNS}",
    ),
)
_REASONS = {word: reason for names, reason in _STATEMENTS for word in names.split()}


# So many problems alike are one; so many make one look at what the file is.
_MANY = 3
_KINDS = (
    (re.compile(r"\[[A-Za-z][^\]\"]*\]\s*$"), "an INI or unit file"),
    (re.compile(r"\s*[{\[]"), "a JSON file"),
    (re.compile(r"-----BEGIN "), "a PEM file"),
    (re.compile(r"\s*<"), "an XML or HTML file"),
    (re.compile(r"#!"), "a script"),
    (re.compile(r"#cloud-config"), "a cloud-config file"),
    (re.compile(r"---|%YAML|\s*(- )?[A-Za-z_][\w.-]*:(\s|$)"), "a YAML file"),
)


class Assignment(NamedTuple):
    """`key` gets `value` on `line` (from 1), which was made from the variables `uses`."""

    key: str
    value: str
    line: int
    uses: tuple[str, ...] = ()


class EnvFile(NamedTuple):
    """What one file says: its assignments in order, and what is wrong or doubtful about it."""

    assignments: tuple[Assignment, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def parse_bytes(data: bytes, file: str, earlier: Mapping[str, str]) -> EnvFile:
    """Check that `data` is text of at most 4 MiB, else that is the one problem, and parse it."""
    if len(data) > MAX_BYTES:
        message = f"the file has {len(data)} bytes; no environment file above 4 MiB is read"
        return EnvFile(problems=(Problem(file, 0, message),))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        message = "the file is UTF-16 text; save it as UTF-8"
        return EnvFile(problems=(Problem(file, 0, message),))
    if b"\0" in data and not data.strip(b"\0 \t\r\n"):
        message = "the file holds nothing but NUL bytes, as after a power loss: write it anew"
        return EnvFile(problems=(Problem(file, 0, message),))
    if (nul := data.find(b"\0")) >= 0:
        message = "a NUL byte: this is not a text file"
        return EnvFile(problems=(Problem(file, data.count(b"\n", 0, nul) + 1, message),))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error counts from behind a byte order mark, which holds no line end.
        line = error.object[: error.start].count(b"\n") + 1
        message = "a byte that is not UTF-8: this is not a text file, or it has another encoding"
        return EnvFile(problems=(Problem(file, line, message),))
    return parse_envfile(text, file, earlier)


def parse_envfile(text: str, file: str, earlier: Mapping[str, str]) -> EnvFile:
    """Parse `text`, which may expand `earlier`, the values of the files before this one.

    Assignments of lines without a problem are given even if other lines have one. After 50
    problems, and after a quote that is never closed, the rest is not read. What is wrong with many
    lines alike is one problem, and a file of another kind is one, too.
    """
    parsed = _Parser(text, file, earlier).parse()
    if len(parsed.problems) < _MANY:
        return parsed
    first = parsed.problems[0]
    kind = _find_kind(text)
    if not parsed.assignments and kind:
        message = f"this is {kind}, not an environment file: lines KEY=value belong here"
        return parsed._replace(problems=(Problem(file, first.line, message),))
    return parsed._replace(problems=_join_alike(parsed.problems))


def _find_kind(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return next((name for begin, name in _KINDS if begin.match(lines[0])), "")


def _join_alike(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Join those of one message: the first, with the lines of the others."""
    by_message: dict[str, list[Problem]] = {}
    for problem in problems:
        by_message.setdefault(problem.message, []).append(problem)
    joined = []
    for message, (first, *others) in by_message.items():
        if len(others) + 1 < _MANY:
            joined += [first, *others]
        else:
            rest = f"{len(others)} more lines up to line {others[-1].line}"
            joined.append(first._replace(message=f"{message} (and so are {rest})"))
    return tuple(sorted(joined))


class _Parser:
    def __init__(self, text: str, file: str, earlier: Mapping[str, str]) -> None:
        self._text = text.replace("\r\n", "\n").removesuffix("\r")
        self._file = file
        self._own: dict[str, str] = {}
        self._variables = ChainMap(self._own, dict(earlier))
        self._words = words.WordReader(self._text, self._variables, words.Budget(MAX_BYTES))
        self._counted = 0  # position up to which line ends are counted in `_line`
        self._line = 1
        self._begin = 1  # the line on which the assignment being read begins
        self._assignments: list[Assignment] = []
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def parse(self) -> EnvFile:
        reader = self._words
        while reader.position < len(self._text):
            try:
                self._read_line()
            except words.Refused as refused:
                self._refuse(refused)
                if refused.is_fatal or len(self._problems) > MAX_PROBLEMS:
                    break
        return EnvFile(tuple(self._assignments), tuple(self._problems), tuple(self._warnings))

    def _refuse(self, refused: words.Refused) -> None:
        begin = self._begin
        line = self._line_at(refused.position)
        if len(self._problems) == MAX_PROBLEMS:
            message = "too many problems: the rest of the file is not read"
        elif line != begin:
            message = f"{refused} (in a value that begins on line {begin})"
        else:
            message = str(refused)
        self._problems.append(Problem(self._file, line, message))
        end = self._text.find("\n", refused.position)
        while end > 0 and self._text[end - 1] == "\\":  # the rest of a continued line
            end = self._text.find("\n", end + 1)
        self._words.position = len(self._text) if end < 0 else end + 1

    def _line_at(self, position: int) -> int:
        # Positions only grow, so that each line end is counted once.
        self._line += self._text.count("\n", self._counted, position)
        self._counted = max(self._counted, position)
        return self._line

    def _skip_blanks(self) -> None:
        blanks = _BLANKS.match(self._words.text, self._words.position)
        self._words.position = blanks.end() if blanks else self._words.position

    def _at_end(self) -> bool:
        """Whether the line ends here; takes the line end and a comment before it."""
        position = self._words.position
        if self._text.startswith("#", position):
            end = self._text.find("\n", position)
            position = len(self._text) if end < 0 else end
        if position < len(self._text) and self._text[position] != "\n":
            return False
        self._words.position = position + 1
        return True

    def _read_line(self) -> None:
        self._skip_blanks()
        self._begin = self._line_at(self._words.position)
        if self._at_end():
            return
        is_export = self._read_export()
        has_names = False
        found: list[Assignment] = []
        while True:
            self._skip_blanks()
            if self._at_end():
                break
            key = self._read_key(after=found[-1].key if found else "", is_export=is_export)
            if key.endswith("="):
                if has_names:
                    raise words.Refused(_NAMES_AND_VALUES, self._words.position)
                found.append(self._read_assignment(key[:-1], is_export=is_export))
            else:  # `export KEY` changes no value
                has_names = True
        # Only a line that is right as a whole counts: before a command, bash would not keep its
        # assignments.
        self._assignments += found

    def _read_export(self) -> bool:
        position = self._words.position
        end = position + len("export")
        if not self._text.startswith("export", position) or self._text[end : end + 1] not in (
            "", " ", "\t", "\n",
        ):  # fmt: skip
            return False
        self._words.position = end
        return True

    def _read_key(self, *, after: str, is_export: bool) -> str:
        """Read `KEY=`, or behind export a name; `after` is the key before it on this line."""
        position = self._words.position
        key = _KEY.match(self._text, position)
        if key is None and self._text.startswith("=", position):
            raise words.Refused("no blank may stand before `=`", position)
        if key is None and not after:
            raise words.Refused(self._describe_statement(position), position)
        following = self._text[key.end() : key.end() + 1] if key else ""
        if key and following == "=":
            self._words.position = key.end() + 1
            return f"{key[0]}="
        if key and is_export and not after and following in ("", " ", "\t", "\n"):
            self._words.position = key.end()
            return key[0]
        if key and following == "[":
            raise words.Refused("an array is not supported", position)
        if key and self._text.startswith("+=", key.end()):
            raise words.Refused("`+=` is not supported: write the whole value", position)
        if after:
            message = (
                f"the value of {after} ends at the blank before this text:"
                " put the value in quotes (bash would run the text as a command)"
            )
            raise words.Refused(message, position)
        raise words.Refused(self._describe_statement(position), position)

    def _describe_statement(self, position: int) -> str:
        # The text itself may be half of a credential, so only a word known to be none is shown by
        # its reason.
        word = _FIRST_WORD.match(self._text, position)
        reason = _REASONS.get(word[0]) if word else None
        if reason:
            return reason
        if _SPACED_ASSIGNMENT.match(self._text, position):
            return "no blank may stand before `=`"
        return f"this is not KEY=value: {_NOTHING_RUNS}"

    def _read_assignment(self, key: str, *, is_export: bool) -> Assignment:
        reader = self._words
        line = self._begin = self._line_at(reader.position)
        try:
            value = reader.read_value(is_argument=is_export)
        except words.Refused:
            if key not in self._variables:
                self._own[key] = ""  # one problem is enough: a later $KEY is not blamed as well
            raise
        for name in reader.unset:
            if len(self._warnings) < MAX_PROBLEMS:
                message = f"{name} has no value at this point: ${name} expands to nothing"
                self._warnings.append(Problem(self._file, line, message))
        self._own[key] = value
        return Assignment(key, value, line, tuple(reader.used))
