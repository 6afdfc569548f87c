"""What was observed as JSON values, so that a worker can hand it over.

Not here: reading the kernel. Bytes become a list of one text in hexadecimal, those of ranges the
text alone; everything else has a form of its own in JSON. What does not fit raises ValueError.
"""

from collections.abc import Iterable
from typing import Any, cast

from ..config.packed import PackedRanges
from . import model


def to_json(observed: model.Observed) -> dict[str, Any]:
    """Give the JSON value of everything observed."""
    return {
        "tables": [
            {
                "name": table.name,
                "sets": [
                    [each.name, each.kind, each.ranges.width, each.ranges.data.hex(), each.room]
                    for each in table.sets
                ],
                "chains": [_chain_to_json(chain) for chain in table.chains],
                "owner": table.owner.value,
                "is_dormant": table.is_dormant,
                "timeouts": [[each.name, each.seconds, each.kind] for each in table.timeouts],
            }
            for table in observed.tables
        ],
        "loopback_addresses": list(observed.loopback_addresses),
        "routing": [list(each) for each in observed.routing],
    }


def _chain_to_json(chain: model.ChainState) -> dict[str, Any]:
    return {
        "name": chain.name,
        "hook": chain.hook,
        "rules": [
            [
                rule.comment,
                [
                    [
                        expression.name,
                        [
                            [key, [value.hex()] if isinstance(value, bytes) else value]
                            for key, value in expression.attributes
                        ],
                    ]
                    for expression in rule.expressions
                ],
            ]
            for rule in chain.rules
        ],
    }


def from_json(value: object) -> model.Observed:
    """Read what `to_json` gave; raises ValueError."""
    try:
        found = cast("dict[str, Any]", value)  # whatever else it is fails below
        return model.Observed(
            tuple(_table(each) for each in found["tables"]),
            tuple(_text(each) for each in found["loopback_addresses"]),
            routing=tuple(_routing(*each) for each in found["routing"]),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"not an observation: {error}") from error


def _table(found: dict[str, Any]) -> model.TableState:
    return model.TableState(
        _text(found["name"]),
        tuple(
            model.NamedSet(_text(name), _text(kind), _ranges(width, digits), *map(_number, room))
            for name, kind, width, digits, *room in found["sets"]
        ),
        tuple(_chain(each) for each in found["chains"]),
        model.Owner(found["owner"]),
        bool(found["is_dormant"]),
        tuple(_timeout(*each) for each in found["timeouts"]),
    )


def _routing(kind: str, *numbers: int) -> model.Routing:
    return model.Routing(_text(kind), *map(_number, numbers))


def _timeout(name: str, seconds: Iterable[tuple[str, int]], kind: int) -> model.Timeout:
    values = tuple((_text(state), _number(value)) for state, value in seconds)
    return model.Timeout(_text(name), values, _number(kind))


def _ranges(width: Any, digits: Any) -> PackedRanges:
    data = bytes.fromhex(_text(digits))
    if _number(width) < 1 or len(data) % (2 * width):
        raise ValueError("ranges are cut off")
    return PackedRanges(width, data)


def _chain(found: dict[str, Any]) -> model.ChainState:
    hook = found["hook"]
    return model.ChainState(
        _text(found["name"]),
        tuple(
            model.RuleState(tuple(_expression(*each) for each in expressions), _text(comment))
            for comment, expressions in found["rules"]
        ),
        _hook(*hook) if hook else None,
    )


def _hook(kind: str, number: int, priority: int, policy: int) -> model.Hook:
    return model.Hook(_text(kind), _number(number), _number(priority), _number(policy))


def _expression(name: str, attributes: Iterable[tuple[str, Any]]) -> model.Expr:
    return model.Expr(
        _text(name), tuple((_text(key), _attribute(value)) for key, value in attributes)
    )


def _attribute(value: Any) -> int | str | bytes:
    if isinstance(value, list):
        (digits,) = value
        return bytes.fromhex(digits)
    return value if isinstance(value, str) else _number(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is missing")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number is missing")
    return value
