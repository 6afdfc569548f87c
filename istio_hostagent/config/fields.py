"""Kinds of values: one `parse_*` each, from the text behind `KEY=` to a typed value.

Not here: which key has which kind (`settings`), values with items between commas (`lists`), names
and addresses of hosts (`endpoints`). Each function takes any text, ignores blanks around the
value, and raises `ValueError` with one sentence that an operator can act on. The empty text is a
value only where a function says so. Text of the operator is shown in messages shortened and
escaped; functions for secrets show none.
"""

import re
from collections.abc import Callable
from typing import TypeVar

from . import model

_Choice = TypeVar("_Choice")

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MICROSECONDS = {
    "ns": 1e-3, "us": 1, "µs": 1, "μs": 1, "ms": 1e3, "s": 1e6, "m": 6e7, "h": 3.6e9,
}  # fmt: skip
_KUBERNETES_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?")
_PRINTABLE = re.compile(r"[ -~]*")
# What Envoy's --log-level takes (envoy docs, operations/cli).
_LOG_LEVELS = ("trace", "debug", "info", "warning", "warn", "error", "critical", "off")
# Of pilot-agent (istio.io/istio/pkg/log, pilot/cmd/pilot-agent): with a value, and without one.
_LOGGING_VALUES = (
    "--log_output_level", "--log_stacktrace_level", "--log_caller", "--vklog",
    "--proxyLogLevel", "--proxyComponentLogLevel",
)  # fmt: skip
_LOGGING_SWITCHES = ("--log_as_json",)
MAX_TTL_S = 90 * 86400  # istiod's default limit (MAX_WORKLOAD_CERT_TTL); it refuses more


def show(text: str) -> str:
    """Text as it may stand in a message: quoted, escaped, at most 40 characters of it."""
    return repr(text if len(text) <= 40 else text[:40] + "…")


def parse_text(text: str) -> str:
    """Any text on one line, empty included.

    >>> parse_text(" Kubernetes ")
    'Kubernetes'
    """
    text = text.strip()
    if not text.isprintable():
        raise ValueError("a control character or line end is inside the value")
    return text


def parse_bool(text: str) -> bool:
    """One of true, yes, 1, false, no, 0 in any case.

    Istio takes anything else for false without a word; we do not.

    >>> parse_bool("True"), parse_bool("0")
    (True, False)
    """
    truth = _TRUTH.get(text.strip().lower())
    if truth is None:
        raise ValueError(f"{show(text)} is neither true nor false")
    return truth


def parse_number(text: str, *, lowest: int, highest: int, what: str) -> int:
    """A decimal number between two bounds, both included; `what` names it in the message."""
    text = text.strip()
    # int() takes more than this: signs, underscores and the digits of every script.
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if lowest <= number <= highest:
        return number
    raise ValueError(f"{show(text)} is not {what} between {lowest} and {highest}")


def parse_port(text: str) -> int:
    """One TCP port, 1 to 65535."""
    return parse_number(text, lowest=1, highest=65535, what="a port")


def parse_port_or_none(text: str) -> int:
    """One TCP port, or 0 for none."""
    return parse_number(text, lowest=0, highest=65535, what="a port")


def parse_count(text: str) -> int:
    """A small count, 1 to 1024."""
    return parse_number(text, lowest=1, highest=1024, what="a number")


MOST_DRAIN_S = 3600.0


def parse_drain(text: str) -> float:
    """Seconds of draining: a duration of at most an hour, 0s for none.

    >>> parse_drain("30s"), parse_drain("0s")
    (30.0, 0.0)
    """
    if text.strip() in ("0", "0s"):
        return 0.0
    found = parse_duration(text)
    if found > MOST_DRAIN_S:
        raise ValueError(f"{show(text)} is more than an hour")
    return found


def parse_duration(text: str) -> float:
    """A length of time above zero in seconds, as Go writes it: `24h`, `1h30m`, `90s`, `1.5h`.

    The notation is that of ParseDuration in Go's package time.

    >>> parse_duration("1h30m")
    5400.0
    """
    text = text.strip()
    position = 0
    total = 0.0
    if len(text) <= 64:
        while part := _DURATION_PART.match(text, position):
            total += float(part[1]) * _MICROSECONDS[part[2]]
            position = part.end()
    if not text or position != len(text):
        raise ValueError(f"{show(text)} is not a duration such as 24h or 1h30m")
    if not round(total):
        raise ValueError(f"{show(text)} is no time at all")
    return round(total) / 1e6


def parse_ttl(text: str) -> float:
    """The life of a certificate in seconds: a duration from one second to 90 days."""
    ttl = parse_duration(text)
    if not 1 <= ttl <= MAX_TTL_S:
        raise ValueError(
            f"{show(text)} is not between 1s and 2160h (90 days), which is what istiod grants"
        )
    return ttl


def parse_ratio(text: str) -> float:
    """A fraction between 0 and 1, both excluded."""
    text = text.strip()
    try:
        ratio = float(text) if len(text) <= 32 else 0.0
    except ValueError:
        ratio = 0.0
    if 0.0 < ratio < 1.0:
        return ratio
    raise ValueError(f"{show(text)} is not a fraction between 0 and 1, such as 0.5")


def parse_jitter(text: str) -> float:
    """A fraction from 0 to 1."""
    text = text.strip()
    try:
        fraction = float(text) if len(text) <= 32 else -1.0
    except ValueError:
        fraction = -1.0
    if 0.0 <= fraction <= 1.0:
        return fraction
    raise ValueError(f"{show(text)} is not a fraction from 0 to 1, such as 0.05")


def parse_path(text: str) -> str:
    """A path; `./etc/certs` and `etc/certs` mean `/etc/certs`, since Istio's agent runs in `/`.

    >>> parse_path("./etc/certs/")
    '/etc/certs'
    """
    text = parse_text(text)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not text or ".." in parts:
        raise ValueError(f"{show(text)} is not a path without `..`")
    return "/" + "/".join(parts)


def parse_optional_path(text: str) -> str | None:
    """As `parse_path`; the empty text is none."""
    return parse_path(text) if text.strip() else None


def parse_root_file(text: str) -> str:
    """As `parse_path`; `SYSTEM` is the store of the operating system, where Debian keeps it."""
    if text.strip() == "SYSTEM":
        return model.SYSTEM_ROOTS
    return parse_path(text)


def parse_optional_root(text: str) -> str:
    """As `parse_path`; `SYSTEM` stays, which pilot-agent knows, and the empty text is none."""
    text = text.strip()
    return parse_path(text) if text and text != "SYSTEM" else text


def parse_kubernetes_name(text: str) -> str:
    """The name of a namespace or service account: lower-case letters, digits, `-` and `.`."""
    text = text.strip()
    if _KUBERNETES_NAME.fullmatch(text):
        return text
    raise ValueError(f"{show(text)} is not a name of lower-case letters, digits, '-' and '.'")


def parse_namespace(text: str) -> str:
    """The name of a namespace: one DNS label of lower-case letters, digits and `-`."""
    name = parse_kubernetes_name(text)
    if len(name) > 63 or "." in name:
        raise ValueError(
            f"{show(text)} is not a namespace: it has a dot or more than 63 characters"
        )
    return name


def parse_trust_domain(text: str) -> str:
    """A trust domain of SPIFFE: at most 255 lower-case letters, digits, `.`, `-` and `_`."""
    text = text.strip()
    if _TRUST_DOMAIN.fullmatch(text):
        return text
    raise ValueError(f"{show(text)} is not a trust domain such as cluster.local")


def parse_interception_mode(text: str) -> bool:
    """REDIRECT or TPROXY in any case; whether it is TPROXY.

    Istio takes anything else for REDIRECT without a word, which hides client addresses.
    """
    mode = text.strip().upper()
    if mode not in ("REDIRECT", "TPROXY"):
        raise ValueError(f"{show(text)} is neither REDIRECT nor TPROXY")
    return mode == "TPROXY"


def parse_told_mode(text: str) -> str:
    """REDIRECT, TPROXY or NONE in any case, as Istio's node metadata have it in capitals."""
    mode = text.strip().upper()
    if mode not in ("REDIRECT", "TPROXY", "NONE"):
        raise ValueError(f"{show(text)} is neither REDIRECT, TPROXY nor NONE")
    return mode


def parse_mark(text: str) -> int:
    """A mark of packets: 1 to 0xffffffff, in decimal or after 0x in hexadecimal digits.

    >>> parse_mark("0x539")
    1337
    """
    text = text.strip().lower()
    digits = text.removeprefix("0x")
    if text.startswith("0x") and len(digits) <= 8 and not set(digits) - set("0123456789abcdef"):
        text = str(int(digits or "0", 16))
    return parse_number(text, lowest=1, highest=0xFFFFFFFF, what="a mark")


def parse_routing_table(text: str) -> int:
    """The number of a routing table that is not the kernel's own (default, main, local)."""
    table = parse_number(text, lowest=1, highest=0xFFFFFFFF, what="a routing table")
    if table in (253, 254, 255):
        raise ValueError(f"{table} is a routing table of the kernel's own (default, main, local)")
    return table


def parse_log_level(text: str) -> str:
    """A log level of Envoy."""
    level = text.strip().lower()
    if level in _LOG_LEVELS:
        return level
    raise ValueError(f"{show(text)} is not one of {', '.join(_LOG_LEVELS)}")


def parse_words(text: str) -> tuple[str, ...]:
    """Words between blanks, as Istio's start script splits them; quotes have no meaning inside."""
    return tuple(parse_text(text).split())


def is_about_logging(words: tuple[str, ...]) -> bool:
    """Whether arguments of pilot-agent change nothing but how much is logged, and in which form.

    Not `--log_target`, `--log_rotate` and their like, which name files.
    """
    waits_for_value = False
    for word in words:
        name, separator, _value = word.partition("=")
        if waits_for_value and not word.startswith("-"):
            waits_for_value = False
        elif waits_for_value or name not in (*_LOGGING_VALUES, *_LOGGING_SWITCHES):
            return False
        else:
            waits_for_value = not separator and name in _LOGGING_VALUES
    return not waits_for_value


def parse_header(text: str) -> str:
    """The value of a gRPC header, which no message shows.

    Printable ASCII: `ASCII-Value` of the specification of gRPC over HTTP/2.
    """
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("a header value must be printable ASCII on one line")
    return text


def parse_header_text(text: str) -> str:
    """One line of printable ASCII that is sent as a header and is no secret, empty included."""
    text = text.strip()
    if not _PRINTABLE.fullmatch(text):
        raise ValueError(f"{show(text)} is not printable ASCII on one line")
    return text


def parser_of(choices: dict[str, _Choice]) -> Callable[[str], _Choice]:
    """Make a parser that takes one of the given words, in any case."""

    def parse(text: str) -> _Choice:
        try:
            return choices[text.strip().lower()]
        except KeyError:
            raise ValueError(f"{show(text)} is not one of {', '.join(choices)}") from None

    return parse
