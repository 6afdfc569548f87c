"""From the files on disk to the configuration in force, or the last accepted one and the reason.

The texts that were accepted are kept in one file of the state directory (design invariant 3): a
bad file, or an accepted file that is gone, never takes away what works. They are kept only once
they have worked; before that a corrected or removed file counts at once.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from ..config import build, model
from ..errors import Problem
from ..host import files, layers
from . import places

ACCEPTED = "accepted.json"
REFUSED = "refused.json"
# Three texts of the largest size that the parser takes, each byte up to six characters long.
MAX_ACCEPTED = 3 * 6 * files.MAX_BYTES + 65536


class Loaded(NamedTuple):
    """What the files came to. `config` is None when there is nothing to do or nothing usable.

    `is_kept`: the files are bad or gone and `config` comes from the accepted texts.
    `is_empty`: nobody has written a configuration yet; that is no problem.
    """

    config: model.Config | None = None
    layers: tuple[model.Layer, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    is_kept: bool = False
    is_empty: bool = False
    is_unread: bool = False  # some file could not be read, which may pass without a change of it


def load(read: layers.Found, facts: model.HostFacts, accepted: Sequence[model.Layer]) -> Loaded:
    """Make sense of what was read; fall back on `accepted` (empty: there are none) as a whole."""
    found, problems = read
    if found == tuple(accepted):
        found = tuple(accepted)  # one copy, of what may be large
    is_unread = bool(problems)
    loaded = _build(found, facts, problems or _gone(found, accepted))
    if loaded.problems and accepted:
        kept = _load_kept(accepted, facts)
        loaded = kept._replace(problems=loaded.problems, warnings=loaded.warnings, is_kept=True)
    return loaded._replace(is_unread=is_unread)


def _load_kept(accepted: Sequence[model.Layer], facts: model.HostFacts) -> Loaded:
    # sshd may have got a port of ours since they were accepted; that takes nothing away.
    return _build(tuple(accepted), facts._replace(ssh_ports=()), ())


def _gone(found: Sequence[model.Layer], accepted: Sequence[model.Layer]) -> tuple[Problem, ...]:
    missing = {layer.file for layer in found if layer.data is None}
    message = "is gone; the text accepted before stays in force (systemctl stop leaves the mesh)"
    return tuple(
        Problem(layer.file, 0, message)
        for layer in accepted
        if layer.data is not None and layer.file in missing
    )


def _build(
    found: tuple[model.Layer, ...], facts: model.HostFacts, problems: tuple[Problem, ...]
) -> Loaded:
    outcome = build.build_config(found, facts)
    problems = tuple(sorted({*problems, *outcome.problems}))
    mesh_files = {layer.file for layer in found[1:]}
    is_empty = not problems and not any(value.file in mesh_files for value in outcome.values)
    return Loaded(
        config=None if problems or is_empty else outcome.config,
        layers=found,
        problems=problems,
        warnings=outcome.warnings,
        is_empty=is_empty,
    )


def refuse(kept: Loaded, refused: Loaded, reason: str, *, is_final: bool = True) -> Loaded:
    """The configuration before is in force again; say so until the files change.

    `is_final`: it is not tried again unless somebody asks.
    """
    again = "`reload` retries" if is_final else "retried automatically"
    text = f"rejected ({again}): {reason}"
    changed = [
        new.file
        for new, old in zip(refused.layers, kept.layers, strict=True)
        if new.data != old.data
    ]
    problems = tuple(Problem(file, 0, text) for file in changed)
    return kept._replace(layers=refused.layers, problems=problems, is_kept=True)


def load_accepted(accepted: Sequence[model.Layer], facts: model.HostFacts) -> Loaded | None:
    """What the kept texts come to; None if there are none, or they mean nothing any more."""
    kept = _load_kept(accepted, facts) if accepted else None
    return kept if kept is not None and kept.config is not None else None


def render_layers(layers: Sequence[model.Layer]) -> bytes:
    """Put texts into the form in which they are kept."""
    rows = [
        {
            "file": layer.file,
            "text": None if layer.data is None else layer.data.decode("latin-1"),
            "is_root_only": layer.trust.is_root_only,
            "detail": layer.trust.detail,
            "is_proxys": layer.trust.is_proxys,
        }
        for layer in layers
    ]
    return json.dumps({"version": 1, "layers": rows}, indent=1).encode()


def parse_layers(data: bytes, sources: places.Sources) -> tuple[model.Layer, ...]:
    """The kept texts if they are of these files; an unreadable record counts as none."""
    try:
        record = json.loads(data)
        found = tuple(
            model.Layer(
                row["file"],
                None if row["text"] is None else row["text"].encode("latin-1"),
                model.Trust(row["is_root_only"], row["detail"], row.get("is_proxys", False)),
            )
            for row in record["layers"]
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    return found if tuple(layer.file for layer in found) == sources.paths else ()
