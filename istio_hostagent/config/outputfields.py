"""The text of the keys about who else gets the certificate to their values.

Everything raises ValueError with the sentence that an operator reads.
"""

import shlex

from . import fields, lists, model

_UNIT = "unit:"
_UNIT_CHARACTERS = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@"
)
_OPTIONS = ("owner", "group", "mode", "password-file")
_MOST = 16


def parse_hook(text: str) -> model.RenewHook:
    """A command line, or units between blanks; the empty text is neither.

    >>> parse_hook("unit:nginx.service unit:haproxy.service").units
    ('nginx.service', 'haproxy.service')
    """
    words = _split(text)
    if not any(word.startswith(_UNIT) for word in words):
        if words and not words[0].startswith("/"):
            raise ValueError(
                f"{fields.show(words[0])} is neither an absolute path to a program nor unit:NAME"
            )
        return model.RenewHook(command=words)
    units = tuple(word.removeprefix(_UNIT) for word in words)
    for word, unit in zip(words, units, strict=True):
        is_name = 0 < len(unit) < 256 and set(unit) <= _UNIT_CHARACTERS
        if not word.startswith(_UNIT) or not is_name or unit.startswith("-"):
            raise ValueError(f"{fields.show(word)} is not unit:NAME, as in unit:nginx.service")
    return model.RenewHook(units=units)


def parse_outputs(text: str) -> tuple[model.Output, ...]:
    """KIND:PATH between blanks, each with its options behind commas.

    >>> parse_outputs("pem:/etc/haproxy/mesh.pem,group=haproxy")[0].mode == 0o640
    True
    """
    found = tuple(map(_parse_output, _split(text)))
    paths = [each.path for each in found]
    if len(set(paths)) < len(paths):
        raise ValueError("one path is there twice")
    if len(found) > _MOST:
        raise ValueError(f"more than {_MOST} outputs")
    return found


def _split(text: str) -> tuple[str, ...]:
    text = fields.parse_text(text.replace("\n", " "))
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"it has {str(error).lower()}") from error


def _parse_output(word: str) -> model.Output:
    kinds = {each.value: each for each in model.OutputKind}
    kind, colon, rest = word.partition(":")
    if kind not in kinds or not colon:
        raise ValueError(
            f"{fields.show(word)} does not begin with one of {', '.join(kinds)}:/PATH"
        )
    path, *parts = rest.split(",")
    if not path.startswith("/"):
        raise ValueError(f"{fields.show(word)}: the path is not absolute")
    options: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in _OPTIONS or not equals or not value or name in options:
            raise ValueError(f"{fields.show(part)} is not one of {'=, '.join(_OPTIONS)}=")
        options[name] = value
    if "password-file" in options and kinds[kind] is not model.OutputKind.PKCS12:
        raise ValueError("password-file is for pkcs12 alone")
    password_file = options.get("password-file", "")
    owner, group = options.get("owner", ""), options.get("group", "")
    return model.Output(
        kinds[kind],
        fields.parse_path(path),
        lists.parse_user(owner) if owner else 0,
        lists.parse_user(group) if group else None,
        _parse_mode(options["mode"]) if "mode" in options else 0o640 if group else 0o600,
        fields.parse_path(password_file) if password_file else "",
    )


def _parse_mode(text: str) -> int:
    """Of the file with the key, in octal."""
    try:
        mode = int(text, 8) if text.isascii() and text.isdigit() else -1
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777 or not mode & 0o400 or mode & 0o111:
        raise ValueError(f"mode={fields.show(text)} is not one of a file, as in 0640")
    if mode & 0o007:
        raise ValueError(f"mode={fields.show(text)} would show the key to every user of this host")
    return mode
