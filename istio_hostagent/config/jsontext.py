"""Whether a value looks like JSON, and what it was before a shell took its quotes off.

Not a parser: the module json is a library that the small verbs do without, and what pilot-agent
makes of a value is its own business. Here are the two mistakes that are made: quotes that a shell
took off, and JSON that was made a text of JSON once more, as istioctl has done.
"""

import re

_TOKEN = re.compile(
    r'\s+|[{}\[\],:]|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null'
)
# One text, whole.
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_BARE_OBJECT = re.compile(r"\s*\{([^{}\[\]\"']*)\}\s*")
# YAML takes `{a: 1}` and `{"a":1}`, and makes a key without a value of `{a:1}`.
_BARE_FLOW = re.compile(r"\s*\{\s*[A-Za-z_]\w*:[^\s,}]")
MAX_REPAIRED = 400


def is_plausible(text: str) -> bool:
    """Whether all of it are tokens of JSON, in an object or a list without a comma too many.

    >>> is_plausible('{"app":"x"}'), is_plausible("{app:x}")
    (True, False)
    """
    body = text.strip()
    if (body[:1], body[-1:]) not in (("{", "}"), ("[", "]")):
        return False
    position = 0
    before = ""
    while position < len(body):
        token = _TOKEN.match(body, position)
        if token is None or (before == "," and token[0] in "}]"):
            return False
        before = token[0] if token[0].strip() else before
        position = token.end()
    return True


def is_bare_flow(text: str) -> bool:
    """Whether a mapping of YAML was JSON before a shell took its quotes off.

    >>> is_bare_flow("{concurrency:2}"), is_bare_flow("{concurrency: 2}")
    (True, False)
    """
    return _BARE_FLOW.match(text) is not None


def repair(text: str) -> str:
    """Give an object of texts its quotes back, or take those off that are too many.

    Empty where that would be a guess.

    >>> repair("{app:x,version:v1}")
    '{"app":"x","version":"v1"}'
    """
    if _TEXT.fullmatch(text.strip()) and len(text) <= MAX_REPAIRED and text.isprintable():
        inner = text.strip()[1:-1].replace('\\"', '"')
        return inner if is_plausible(inner) and not set("\\'") & set(inner) else ""
    bare = _BARE_OBJECT.fullmatch(text)
    if bare is None or len(text) > MAX_REPAIRED or not text.isprintable():
        return ""
    pairs = [item.partition(":") for item in bare[1].split(",") if item.strip()]
    if not all(separator and key.strip() for key, separator, _ in pairs):
        return ""
    return "{" + ",".join(f'"{key.strip()}":"{value.strip()}"' for key, _, value in pairs) + "}"
