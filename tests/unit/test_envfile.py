"""What an environment file may say, and for every other file the one problem it gives."""

import pytest

from istio_hostagent.config import envfile
from istio_hostagent.errors import Problem

FILE = "/var/lib/istio/envoy/sidecar.env"

NOTHING_RUNS = "nothing in this file is run"
SUBSTITUTION = f"command substitution and arithmetic are not supported: {NOTHING_RUNS}"
COMMAND = f"shell commands are not supported: {NOTHING_RUNS}"
CONTROL = f"control structures of the shell are not supported: {NOTHING_RUNS}"
NO_ASSIGNMENT = f"this is not KEY=value: {NOTHING_RUNS}"
SPACED = "no blank may stand before `=`"
REDIRECTION = f"a redirection is not supported: put the value in quotes, {NOTHING_RUNS}"
OPERATOR = "only ${NAME} is supported, without an operator such as :- or #"
SPECIAL = "a special parameter of the shell is not supported"


def cut(key: str) -> str:
    return (
        f"the value of {key} ends at the blank before this text:"
        " put the value in quotes (bash would run the text as a command)"
    )


def parse(text: str, **earlier: str) -> dict[str, str]:
    """The values of a file that must be free of problems."""
    found = envfile.parse_envfile(text, FILE, earlier)
    assert found.problems == ()
    return {assignment.key: assignment.value for assignment in found.assignments}


VALUES = {
    "plain": ("A=80,443\n", "80,443"),
    "no line end": ("A=80", "80"),
    "empty": ("A=\n", ""),
    "empty in quotes": ("A=''\n", ""),
    "export": ("export A=80\n", "80"),
    "blanks around": (" \t export \t A=80 \t\n", "80"),
    "comment behind": ("A=80 # only http\n", "80"),
    "hash inside": ("A=a#b\n", "a#b"),
    "single quotes": ("A='*'\n", "*"),
    "double quotes": ('A="27017, 3306"\n', "27017, 3306"),
    "quoting of istioctl": ("A='it'\"'\"'s'\n", "it's"),
    "mixed quotes": ("A=a'b c'\"d e\"f\n", "ab cd ef"),
    "json": ('A=\'{"app":"foo"}\'\n', '{"app":"foo"}'),
    "json without quotes loses its quotes": ('A={"app":"foo"}\n', "{app:foo}"),
    "star without quotes": ("A=*\n", "*"),
    "escapes": ("A=a\\ b\\$c\\\\d\\'e\n", "a b$c\\d'e"),
    "escapes in double quotes": ('A="a\\$b\\`c\\"d\\\\e\\nf"\n', 'a$b`c"d\\e\\nf'),
    "no escapes in single quotes": ("A='a\\nb\\'\n", "a\\nb\\"),
    "continuation": ("A=80,\\\n443\n", "80,443"),
    "continuation in double quotes": ('A="80,\\\n443"\n', "80,443"),
    "continuation with carriage return": ("A=80,\\\r\n443\r\n", "80,443"),
    "two lines in quotes": ("A='a\nb'\n", "a\nb"),
    "carriage returns": ("A=80\r\n", "80"),
    "carriage return at the end": ("A=80\r", "80"),
    "ansi letters": ("A=$'a\\tb\\n\\\\ \\' \\\" \\a\\b\\e\\E\\f\\r\\v\\?'\n", "a\tb\n\\ ' \" \a\b\x1b\x1b\f\r\v?"),
    "ansi numbers": ("A=$'\\x41\\102\\u0043\\U00000044\\cA'\n", "ABCD\x01"),
    "ansi bytes": ("A=$'caf\\xc3\\xa9 \\303\\251'\n", "café é"),
    "ansi octal beyond a byte": ("A=$'\\541'\n", "a"),
    "ansi unknown": ("A=$'\\q\\x'\n", "\\q\\x"),
    "no ansi in double quotes": ("A=\"$'a'\"\n", "$'a'"),
    "unicode": ("A=café\n", "café"),
    "blank beyond ascii": ("A=a\u00a0b\n", "a\u00a0b"),
    "dollar alone": ("A=a$ \n", "a$"),
    "dollar before a stop": ("A=a$.b$\n", "a$.b$"),
    "tilde inside": ("A=a~b\n", "a~b"),
    "tilde behind a continued word": ("A=a\\\n~\n", "a~"),
    "tilde in quotes": ("A='~'\n", "~"),
    "colons and braces": ("A=a:b{c,d}\n", "a:b{c,d}"),
    "equals sign": ("A=a=b\n", "a=b"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), VALUES.values(), ids=VALUES.keys())
def test_value_is_what_bash_would_assign(text: str, value: str) -> None:
    assert parse(text) == {"A": value}


def test_lines_are_those_on_which_the_key_stands() -> None:
    text = "# one\n\nA='x\ny'\n  # two \\\nexport B=1 C=2\n\\\nD=\\\n3\n"
    found = envfile.parse_envfile(text, FILE, {})
    assert [(a.key, a.value, a.line) for a in found.assignments] == [
        ("A", "x\ny", 3),
        ("B", "1", 6),
        ("C", "2", 6),
        ("D", "3", 8),
    ]


def test_export_of_names_alone_changes_nothing() -> None:
    assert parse("A=1\nexport A\nexport A B # both\nexport\nexport") == {"A": "1"}


def test_variables_expand_to_earlier_values() -> None:
    text = "A=1\nB=$A,${A}2\nC=\"$A $EARLIER\"\nD='$A'\nE=\\$A\nA=$A,9\nF=$A"
    assert parse(text, EARLIER="0") == {
        "A": "1,9", "B": "1,12", "C": "1 0", "D": "$A", "E": "$A", "F": "1,9",
    }  # fmt: skip


def test_later_file_can_extend_the_value_of_an_earlier_one() -> None:
    assert parse("A=$A,443\n", A="80") == {"A": "80,443"}


def test_assignment_names_the_variables_it_was_made_from() -> None:
    found = envfile.parse_envfile("A=1\nB=$A${C}\nD=2\n", FILE, {"C": "3"})
    assert [assignment.uses for assignment in found.assignments] == [(), ("A", "C"), ()]


def test_variable_without_value_expands_to_nothing_with_a_warning() -> None:
    found = envfile.parse_envfile("\nA=x$MISSING.\n", FILE, {})
    assert found.assignments == (envfile.Assignment("A", "x.", 2, ("MISSING",)),)
    message = "MISSING has no value at this point: $MISSING expands to nothing"
    assert found.warnings == (Problem(FILE, 2, message),)


def test_warnings_are_bounded() -> None:
    found = envfile.parse_envfile("A=$B\n" * 1000, FILE, {})
    assert len(found.warnings) == envfile.MAX_PROBLEMS


MALFORMED: dict[str, tuple[bytes, list[tuple[int, str]]]] = {
    "blank in a list": (b"\nA=27017, 3306\n", [(2, cut("A"))]),
    "blank behind the equals sign": (b"A= 80\n", [(1, cut("A"))]),
    "blank before the equals sign": (b"A =80\n", [(1, SPACED)]),
    "blanks around the equals sign": (b"A = 80\n", [(1, SPACED)]),
    "blank before the equals sign behind export": (b"export A = 80\n", [(1, SPACED)]),
    "name without value": (b"B=1\nA\n", [(2, NO_ASSIGNMENT)]),
    "name with a stop": (b"a.b=1\n", [(1, NO_ASSIGNMENT)]),
    "name that begins with a digit": (b"1A=1\n", [(1, NO_ASSIGNMENT)]),
    "name with a dash": (b"A-B=1\n", [(1, NO_ASSIGNMENT)]),
    "yaml": (b"ports: 80\n", [(1, NO_ASSIGNMENT)]),
    "ini section": (b"[mesh]\nA=1\n", [(1, NO_ASSIGNMENT)]),
    "open single quote": (b"B=1\nA='80\nC=2\n", [(2, "the single quote is never closed")]),
    "open double quote": (b'A="80\nC=2\n', [(1, "the double quote is never closed")]),
    "open ansi quote": (b"A=$'80\nC=2\n", [(1, "the quote of $'...' is never closed")]),
    "command substitution": (b"A=$(hostname -I)\n", [(1, SUBSTITUTION)]),
    "command substitution in quotes": (b'A="x$(id)"\n', [(1, SUBSTITUTION)]),
    "arithmetic": (b"A=$((1+1))\n", [(1, SUBSTITUTION)]),
    "old arithmetic": (b"A=$[1+1]\n", [(1, SUBSTITUTION)]),
    "backticks": (
        b"A=`id`\n",
        [(1, f"command substitution with backticks is not supported: {NOTHING_RUNS}")],
    ),
    "backticks in quotes": (
        b'A="`id`"\n',
        [(1, f"command substitution with backticks is not supported: {NOTHING_RUNS}")],
    ),
    "default operator": (b"A=${B:-80}\n", [(1, OPERATOR)]),
    "length operator": (b"A=${#B}\n", [(1, OPERATOR)]),
    "open brace": (b"A=${B\n", [(1, OPERATOR)]),
    "process number": (b"A=$$\n", [(1, SPECIAL)]),
    "positional": (b"A=$1\n", [(1, SPECIAL)]),
    "semicolon": (
        b"A=1; rm -rf x\n",
        [(1, "`;` is not supported: write one setting a line, or put the value in quotes")],
    ),
    "pipe": (b"A=1|tee x\n", [(1, f"a pipe is not supported: {NOTHING_RUNS}")]),
    "ampersand": (
        b"A=1&\n",
        [(1, f"`&` is not supported: put the value in quotes, {NOTHING_RUNS}")],
    ),
    "output": (b"A=1>x\n", [(1, REDIRECTION)]),
    "here document": (b"A=<<EOF\nB=1\n", [(1, REDIRECTION)]),
    "array": (
        b"A=(80 443)\n",
        [(1, "an array or sub-shell is not supported: put the value in quotes")],
    ),
    "array element": (b"A[0]=80\n", [(1, "an array is not supported")]),
    "lone parenthesis": (
        b"A=80)\n", [(1, "a lone `)` is not supported: put the value in quotes")]
    ),
    "appending": (b"A+=80\n", [(1, "`+=` is not supported: write the whole value")]),
    "source": (
        b"\n\nsource /etc/default/x\n",
        [(3, "reading another file is not supported: copy its settings here")],
    ),
    "dot": (
        b". /etc/default/x\n",
        [(1, "reading another file is not supported: copy its settings here")],
    ),
    "if": (b"if true; then\nA=1\nfi\n", [(1, CONTROL), (3, CONTROL)]),
    "function": (b"function f {\n", [(1, CONTROL)]),
    "double bracket": (b"[[ -f x ]]\n", [(1, CONTROL)]),
    "set": (
        b"set -a\n", [(1, "shell options are not supported and not needed: the agent sees every key")]
    ),
    "unset": (
        b"unset A\n",
        [(1, "unset is not supported: remove the line that sets the key, or write KEY=")],
    ),
    "declare": (b"declare -x A=1\n", [(1, COMMAND)]),
    "export with option": (b"export -n A\n", [(1, NO_ASSIGNMENT)]),
    "export of a name and a value": (
        b"export A B=1\n",
        [(1, "export with names and values mixed is not supported: write one setting a line")],
    ),
    "export with a blank in the value": (b"export A=80 443\n", [(1, cut("A"))]),
    "export with braces": (
        b"export A={a,b}\n", [(1, "`{` after export is expanded by bash: quote the value")]
    ),
    "export glued": (b"export\\\nA=1\n", [(1, NO_ASSIGNMENT)]),
    "tilde": (b"A=~/x\n", [(1, "`~` is not expanded: write the path in full, or quote it")]),
    "tilde behind a colon": (
        b"A=/a:~/x\n", [(1, "`~` is not expanded: write the path in full, or quote it")]
    ),
    "tilde behind a continuation": (
        b"A=\\\n~/x\n",
        [
            (
                2,
                "`~` is not expanded: write the path in full, or quote it"
                " (in a value that begins on line 1)",
            )
        ],
    ),
    "dollar before a continuation": (
        b"A=$\\\n(id)\n",
        [
            (
                1,
                "a `$` or its name at the end of a continued line is not supported:"
                " write ${NAME}",
            )
        ],
    ),
    "name before a continuation": (
        b'B=1\nA="$B\\\nC"\n',
        [
            (
                2,
                "a `$` or its name at the end of a continued line is not supported:"
                " write ${NAME}",
            )
        ],
    ),
    "translated string": (b'A=$"x"\n', [(1, 'a translated string, $"...", is not supported')]),
    "carriage return inside": (b"A=1\rB=2\n", [(1, "a carriage return stands inside the line")]),
    "backslash at the end": (b"A=x\\", [(1, "a backslash is the last character of the file")]),
    "nul in ansi": (b"A=$'\\0'\n", [(1, "in $'...', a NUL cannot be part of a value")]),
    "surrogate in ansi": (
        b"A=$'\\ud800'\n", [(1, "in $'...', an escape names no Unicode character")]
    ),
    "beyond unicode in ansi": (
        b"A=$'\\U7fffffff'\n", [(1, "in $'...', an escape names no Unicode character")]
    ),
    "half a character in ansi": (b"A=$'\\xc3'\n", [(1, "in $'...', the bytes are not UTF-8")]),
    "control in ansi": (b"A=$'\\c1'\n", [(1, "in $'...', \\c must be followed by a letter")]),
    "problem on the second line of a value": (
        b"B=1\nA='x\ny'$(id)\n", [(3, f"{SUBSTITUTION} (in a value that begins on line 2)")]
    ),
    "nul": (b"A=1\nB=\0\n", [(2, "a NUL byte: this is not a text file")]),
    "binary": (b"\x7fELF\x02\x01\x01\x00\x00", [(1, "a NUL byte: this is not a text file")]),
    "utf-16": ("A=1\n".encode("utf-16"), [(0, "the file is UTF-16 text; save it as UTF-8")]),
    "latin-1": (
        b"A=1\nB=\xe9t\xe9\n",
        [(2, "a byte that is not UTF-8: this is not a text file, or it has another encoding")],
    ),
    "ten megabytes": (
        b"A=1\n" * 2_500_000,
        [(0, "the file has 10000000 bytes; no environment file above 4 MiB is read")],
    ),
    "values that double": (
        b"A=0123456789\n" + b"A=$A$A\n" * 22,
        [(19, "variables expand to more than 4 MiB in all: the rest of the file is not read")],
    ),
    "several": (
        b"A=`x`\nB=1\nC\nD=1 2\n",
        [
            (1, f"command substitution with backticks is not supported: {NOTHING_RUNS}"),
            (3, NO_ASSIGNMENT),
            (4, cut("D")),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_file_gives_its_problem_with_the_line(
    data: bytes, expected: list[tuple[int, str]]
) -> None:
    found = envfile.parse_bytes(data, FILE, {})
    assert [(problem.line, problem.message) for problem in found.problems] == expected
    assert {problem.file for problem in found.problems} == {FILE}


def test_byte_order_mark_is_tolerated() -> None:
    found = envfile.parse_bytes(b"\xef\xbb\xbfA=1\n", FILE, {})
    assert found == envfile.EnvFile((envfile.Assignment("A", "1", 1),))


def test_line_of_bad_byte_counts_behind_a_byte_order_mark() -> None:
    found = envfile.parse_bytes(b"\xef\xbb\xbfA=1\nB=\xff\n", FILE, {})
    assert [problem.line for problem in found.problems] == [2]


def test_good_lines_beside_bad_ones_are_given() -> None:
    found = envfile.parse_envfile("A=1\nB=$(x)\nC=3 4\nD=5 # $(x)\n", FILE, {})
    assert [assignment.key for assignment in found.assignments] == ["A", "D"]


def test_assignment_before_a_command_does_not_count() -> None:
    assert envfile.parse_envfile("A=1 id\n", FILE, {}).assignments == ()


def test_key_with_a_problem_is_not_blamed_again_where_it_is_used() -> None:
    found = envfile.parse_envfile("A=`x`\nB=$A\n", FILE, {})
    assert len(found.problems) == 1
    assert found.warnings == ()


def test_key_with_a_problem_keeps_its_earlier_value() -> None:
    found = envfile.parse_envfile("A=`x`\nB=$A\n", FILE, {"A": "80"})
    assert [assignment.value for assignment in found.assignments] == ["80"]


def test_problems_of_one_file_are_bounded() -> None:
    found = envfile.parse_envfile("not a setting\n" * 1000, FILE, {})
    alike, last = found.problems
    assert str(alike) == (
        f"{FILE}:1: this is not KEY=value: nothing in this file is run (and so are"
        f" {envfile.MAX_PROBLEMS - 1} more lines up to line {envfile.MAX_PROBLEMS})"
    )
    assert last.message == "too many problems: the rest of the file is not read"


WRONG_FILES = {
    "a YAML file": "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata:\n  name: x\n",
    "a PEM file": "-----BEGIN CERTIFICATE-----\n" + "MIIB\n" * 20 + "-----END CERTIFICATE-----\n",
    "a JSON file": '\n{\n  "a": 1,\n  "b": 2\n}\n',
    "an XML or HTML file": "<!DOCTYPE html>\n<html>\n<body>\n404\n",
    "an INI or unit file": "[Service]\nExec Start /x\nA b\nC d\n",
    "a script": "#!/bin/sh\nset -e\nif x; then\nfi\n",
    "a cloud-config file": "#cloud-config\nwrite_files:\n  - path: x\n    content: y\n",
}


@pytest.mark.parametrize(("kind", "text"), WRONG_FILES.items(), ids=WRONG_FILES)
def test_file_of_another_kind_is_one_problem(kind: str, text: str) -> None:
    [problem] = envfile.parse_envfile(text, FILE, {}).problems
    assert (
        problem.message == f"this is {kind}, not an environment file: lines KEY=value belong here"
    )


def test_mistake_of_many_lines_is_told_once_and_others_keep_their_lines() -> None:
    lines = ["A=1", *["some words"] * 22, "B=`x`", "C=2"]
    found = envfile.parse_envfile("\n".join(lines), FILE, {})
    assert [(problem.line, problem.message[:30]) for problem in found.problems] == [
        (2, "this is not KEY=value: nothing"),
        (24, "command substitution with back"),
    ]
    assert found.problems[0].message.endswith("(and so are 21 more lines up to line 23)")
    assert [assignment.key for assignment in found.assignments] == ["A", "C"]


def test_two_lines_alike_are_told_one_by_one() -> None:
    found = envfile.parse_envfile("some words\nA=1\nsome words\n", FILE, {})
    assert [problem.line for problem in found.problems] == [1, 3]


def test_no_message_repeats_what_may_be_a_credential() -> None:
    secret = "eyJhbGciOiJSUzI1NiJ9"
    text = f"{secret}\nCA_HEADER_AUTHORIZATION=Bearer {secret}\nB=`{secret}`\n. {secret}\n"
    found = envfile.parse_envfile(text, FILE, {})
    assert len(found.problems) == 4
    assert not [problem for problem in found.problems if secret in str(problem)]
