"""What was observed as JSON values, so that a worker can hand it over.

Not here: reading the kernel. Bytes become a list of one text in hexadecimal; everything else has
a form of its own in JSON. What does not fit raises ValueError.
"""

from collections.abc import Iterable
from typing import Any, cast

from . import model


def to_json(observed: model.Observed) -> dict[str, Any]:
    """Give the JSON value of everything observed."""
    return {
        "tables": [
            {
                "name": table.name,
                "sets": [[each.name, each.kind, each.ranges] for each in table.sets],
                "chains": [_chain_to_json(chain) for chain in table.chains],
                "owner": table.owner.value,
                "is_dormant": table.is_dormant,
            }
            for table in observed.tables
        ],
        "loopback_addresses": list(observed.loopback_addresses),
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
            tuple(str(each) for each in found["loopback_addresses"]),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"not an observation: {error}") from error


def _table(found: dict[str, Any]) -> model.TableState:
    return model.TableState(
        str(found["name"]),
        tuple(
            model.NamedSet(str(name), str(kind), tuple((int(a), int(b)) for a, b in ranges))
            for name, kind, ranges in found["sets"]
        ),
        tuple(_chain(each) for each in found["chains"]),
        model.Owner(found["owner"]),
        bool(found["is_dormant"]),
    )


def _chain(found: dict[str, Any]) -> model.ChainState:
    hook = found["hook"]
    return model.ChainState(
        str(found["name"]),
        tuple(
            model.RuleState(tuple(_expression(*each) for each in expressions), str(comment))
            for comment, expressions in found["rules"]
        ),
        model.Hook(*hook) if hook else None,
    )


def _expression(name: str, attributes: Iterable[tuple[str, Any]]) -> model.Expr:
    return model.Expr(
        name,
        tuple(
            (key, bytes.fromhex(value[0]) if isinstance(value, list) else value)
            for key, value in attributes
        ),
    )
