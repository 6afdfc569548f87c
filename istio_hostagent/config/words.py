"""One shell word with quotes taken off and variables expanded as by bash; nothing is run.

Here is everything inside the right-hand side of `KEY=value`: quoting, escapes, `$NAME`. Which
words make a statement is `envfile`'s business. What bash would run, or what depends on a shell's
state, is refused and never guessed.

Messages name what is not supported and never quote the value, because it may be a credential.
Every character is looked at a bounded number of times, and `Budget` bounds what expansion may
produce, so hostile text cannot make this slow.
"""

import re
from collections.abc import Mapping

# What a word may hold without quotes and without a meaning of its own.
_PLAIN = re.compile(r"[^\s'\"\\$`;|&<>(){}~:]+")
_BLANK = " \t\n"
_IN_DOUBLE = re.compile(r'[^"\\$`]+')
_IN_ANSI = re.compile(r"[^'\\]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OPERATORS = {
    ";": "`;` is not supported: write one setting a line, or put the value in quotes",
    "|": "a pipe is not supported: nothing in this file is run",
    "&": "`&` is not supported: put the value in quotes, nothing in this file is run",
    "<": "a redirection is not supported: put the value in quotes, nothing in this file is run",
    ">": "a redirection is not supported: put the value in quotes, nothing in this file is run",
    "(": "an array or sub-shell is not supported: put the value in quotes",
    ")": "a lone `)` is not supported: put the value in quotes",
}
_BACKTICK = "command substitution with backticks is not supported: nothing in this file is run"
_SPLIT = "a `$` or its name at the end of a continued line is not supported: write ${NAME}"
_ANSI_LETTERS = {
    "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
    "v": "\v", "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip
_ANSI_NUMBER = re.compile(
    r"([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})"
)
_ANSI_CONTROL = re.compile(r"c([A-Za-z])")


class Refused(Exception):
    """Text that is not data, at `position`; after a fatal one the rest cannot be read."""

    def __init__(self, message: str, position: int, *, is_fatal: bool = False) -> None:
        """Keep the sentence and the place."""
        super().__init__(message)
        self.position = position
        self.is_fatal = is_fatal


class Budget:
    """How many characters expansion may still produce; without it, lines `A=$A$A` double."""

    def __init__(self, left: int) -> None:
        """Allow `left` characters."""
        self._left = left

    def take(self, count: int, position: int) -> None:
        """Use up `count`; raise a fatal `Refused` when there is not that much left."""
        self._left -= count
        if self._left < 0:
            message = (
                "variables expand to more than 4 MiB in all: the rest of the file is not read"
            )
            raise Refused(message, position, is_fatal=True)


class WordReader:
    """Reads words of `text`, beginning at `position`; the caller may move it and add variables."""

    def __init__(self, text: str, variables: Mapping[str, str], budget: Budget) -> None:
        """Start at the first character."""
        self.text = text
        self.position = 0
        self.used: list[str] = []  # names expanded by the last word
        self.unset: list[str] = []  # those of them that have no value
        self._variables = variables
        self._budget = budget
        self._parts: list[str] = []

    def read_value(self, *, is_argument: bool) -> str:
        """Read the value that starts here, up to a blank or the end of the line, left unread.

        `is_argument`: it follows `export`, where bash expands braces as well. Raises `Refused`.
        """
        self._parts = []
        self.used = []
        self.unset = []
        text = self.text
        begin = self.position  # of what is taken as it is: one part, however many colons it has
        can_be_home = True  # bash expands `~` after `=` and after each unquoted `:`
        while self.position < len(text) and (character := text[self.position]) not in _BLANK:
            if run := _PLAIN.match(text, self.position):
                self.position = run.end()
            elif character == "~" and can_be_home:
                raise Refused(
                    "`~` is not expanded: write the path in full, or quote it", self.position
                )
            elif character == "{" and is_argument:
                raise Refused(
                    "`{` after export is expanded by bash: quote the value", self.position
                )
            elif character in ":~{}":
                self.position += 1
            else:
                self._parts.append(text[begin : self.position])
                self._read_special(character)
                begin = self.position
            is_joined = self.text.endswith("\\\n", 0, self.position)
            can_be_home = character == ":" or (can_be_home and is_joined)
        self._parts.append(text[begin : self.position])
        return "".join(self._parts)

    def _read_special(self, character: str) -> None:
        if character == "'":
            self._read_single()
        elif character == '"':
            self.position += 1
            self._read_double(self.position - 1)
        elif character == "\\":
            self._read_escape()
        elif character == "$":
            self._read_dollar(is_quoted=False)
        elif character == "`":
            raise Refused(_BACKTICK, self.position)
        elif character in _OPERATORS:
            raise Refused(_OPERATORS[character], self.position)
        elif character == "\r":
            raise Refused("a carriage return stands inside the line", self.position)
        else:  # blanks beyond ASCII, which have no meaning to bash
            self._parts.append(character)
            self.position += 1

    def _read_single(self) -> None:
        opened = self.position
        end = self.text.find("'", opened + 1)
        if end < 0:
            raise Refused("the single quote is never closed", opened, is_fatal=True)
        self._parts.append(self.text[opened + 1 : end])
        self.position = end + 1

    def _read_escape(self) -> None:
        following = self.text[self.position + 1 : self.position + 2]
        if not following:
            raise Refused("a backslash is the last character of the file", self.position)
        if following != "\n":  # a backslash before the end of the line joins the two lines
            self._parts.append(following)
        self.position += 2

    def _read_double(self, opened: int) -> None:
        text = self.text
        while self.position < len(text):
            character = text[self.position]
            if run := _IN_DOUBLE.match(text, self.position):
                self._parts.append(run[0])
                self.position = run.end()
            elif character == '"':
                self.position += 1
                return
            elif character == "`":
                raise Refused(_BACKTICK, self.position)
            elif character == "$":
                self._read_dollar(is_quoted=True)
            elif text[self.position + 1 : self.position + 2] in ("$", "`", '"', "\\", "\n"):
                self._read_escape()
            else:
                self._parts.append("\\")
                self.position += 1
        raise Refused("the double quote is never closed", opened, is_fatal=True)

    def _read_dollar(self, *, is_quoted: bool) -> None:
        start = self.position
        following = self.text[start + 1 : start + 2]
        if self.text.startswith("\\\n", start + 1):
            raise Refused(_SPLIT, start)
        if name := _NAME.match(self.text, start + 1):
            if self.text.startswith("\\\n", name.end()):
                raise Refused(_SPLIT, start)
            self._expand(name[0])
            self.position = name.end()
        elif braced := _BRACED.match(self.text, start + 1):
            self._expand(braced[1])
            self.position = braced.end()
        elif following == "{":
            message = "only ${NAME} is supported, without an operator such as :- or #"
            raise Refused(message, start)
        elif following in ("(", "["):
            message = (
                "command substitution and arithmetic are not supported:"
                " nothing in this file is run"
            )
            raise Refused(message, start)
        elif following and following in "0123456789?$#@*!-":
            raise Refused("a special parameter of the shell is not supported", start)
        elif following == "'" and not is_quoted:
            self._read_ansi()
        elif following == '"' and not is_quoted:
            raise Refused('a translated string, $"...", is not supported', start)
        else:
            self._parts.append("$")
            self.position += 1

    def _expand(self, name: str) -> None:
        value = self._variables.get(name)
        self.used.append(name)
        if value is None:
            self.unset.append(name)
        else:
            self._budget.take(len(value), self.position)
            self._parts.append(value)

    def _read_ansi(self) -> None:
        opened = self.position
        self.position += 2
        pieces: list[str] = []
        while self.position < len(self.text):
            if run := _IN_ANSI.match(self.text, self.position):
                pieces.append(run[0])
                self.position = run.end()
            elif self.text[self.position] == "'":
                self.position += 1
                self._parts.append(_join_bytes("".join(pieces), opened))
                return
            else:
                pieces.append(self._read_ansi_escape())
        raise Refused("the quote of $'...' is never closed", opened, is_fatal=True)

    def _read_ansi_escape(self) -> str:
        start = self.position + 1
        letter = self.text[start : start + 1]
        if number := _ANSI_NUMBER.match(self.text, start):
            self.position = number.end()
            return _character(number, start)
        if control := _ANSI_CONTROL.match(self.text, start):
            self.position = control.end()
            return chr(ord(control[1]) & 0x1F)
        if letter == "c":
            raise Refused("in $'...', \\c must be followed by a letter", start)
        self.position = start + len(letter)
        return _ANSI_LETTERS.get(letter, "\\" + letter)


def _character(number: re.Match[str], position: int) -> str:
    octal, byte, short, long = number.groups()
    if octal or byte:
        code = int(octal, 8) & 0xFF if octal else int(byte, 16)
        # Bytes above ASCII are joined to characters when the whole string is known.
        code += 0xDC00 if code > 0x7F else 0
    else:
        code = int(short or long, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise Refused("in $'...', an escape names no Unicode character", position)
    if code == 0:
        raise Refused("in $'...', a NUL cannot be part of a value", position)
    return chr(code)


def _join_bytes(text: str, position: int) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("in $'...', the bytes are not UTF-8", position) from None
