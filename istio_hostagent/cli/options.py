"""Options as data: a verb without words on its command line needs no parser at all.

Importing argparse costs 5 ms and 1.5 MB, which the resident process would keep for ever.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

USAGE_STATUS = 64


class Option(NamedTuple):
    """One option of a verb: a switch, or with a `metavar` a number of seconds or a text.

    Which of these says the default. `is_word`: it has no name on the command line, only its place
    there, and has to be given. `is_list`: it takes one text or more. `short`: its letter, too.
    """

    name: str
    help: str
    default: bool | float | str | tuple[str, ...] = False
    metavar: str = ""
    is_word: bool = False
    is_list: bool = False
    short: str = ""


Values = Mapping[str, Any]


def parse(
    prog: str, words: Sequence[str], options: Sequence[Option], *, text: str, example: str
) -> Values:
    """Return the value of every option by its name; ends the process for --help and mistakes."""
    if not words and not any(option.is_word for option in options):
        return {option.name: option.default for option in options}
    argparse = importlib.import_module("argparse")
    parser = argparse.ArgumentParser(
        prog=prog,
        description=text,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=True,
    )
    for option in options:
        names = [f"--{option.name}", *([f"-{option.short}"] if option.short else [])]
        if option.is_word:
            parser.add_argument(
                option.name,
                metavar=option.metavar,
                help=option.help,
                **({"nargs": "+", "type": text_not_empty} if option.is_list else {}),
            )
        elif option.is_list:
            parser.add_argument(
                f"--{option.name}",
                type=text_not_empty,
                nargs="+",
                metavar=option.metavar,
                help=option.help,
            )
        elif option.metavar:
            parser.add_argument(
                *names,
                dest=option.name,
                type=text_not_empty if isinstance(option.default, str) else type(option.default),
                default=None,  # a text would be read by `type`, too
                metavar=option.metavar,
                help=option.help,
            )
        else:
            words_of = {"dest": option.name, "action": "store_true", "help": option.help}
            parser.add_argument(f"--{option.name}", **words_of)
    try:
        given = vars(parser.parse_args(words))
    except SystemExit as end:
        # argparse ends with 2 for a mistake; EX_USAGE tells it from every other failure.
        sys.exit(USAGE_STATUS if end.code else 0)
    defaults = {option.name: option.default for option in options}
    return defaults | {name: value for name, value in given.items() if value is not None}


def text_not_empty(word: str) -> str:
    """An argument from a variable that is not set must not count as not given."""
    if not word:
        raise ValueError
    return word
