"""From the files on disk to the configuration in force, or the last accepted one and the reason.

The texts that were accepted are kept in one file of the state directory (design invariant 3): a
bad file never takes away what works, and the accepted text of a file that is gone or emptied
stands in for it, so that the other files still count. They are kept only once they have worked;
before that a corrected or removed file counts at once.
"""

import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..config import build, model
from ..errors import Problem
from ..host import files, layers
from . import places

# What is no content of a file: white space, NUL bytes, and a byte order mark before them.
_BLANKS, _BOM = b"\0 \t\r\n\f\v", b"\xef\xbb\xbf"
ACCEPTED = "accepted.json"
REFUSED = "refused.json"
# Three texts of the largest size that the parser takes, each byte up to six characters long.
MAX_ACCEPTED = 3 * 6 * files.MAX_BYTES + 65536


class Loaded(NamedTuple):
    """What the files came to. `config` is None when there is nothing to do or nothing usable.

    `is_previous`: the files are bad and `config` comes from the accepted texts.
    `is_empty`: no file of the mesh sets a key. Before anything was accepted that is no problem,
    and no configuration; afterwards it is one that captures nothing.
    `restored`: files that are gone or emptied, whose accepted text counts in their place.
    """

    config: model.Config | None = None
    layers: tuple[model.Layer, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    is_previous: bool = False
    is_empty: bool = False
    restored: tuple[Problem, ...] = ()
    uncaptured: frozenset[str] = frozenset()  # as in `build.Outcome`
    log_level: int = 20  # of the agent itself, as in Python's logging: INFO
    is_unread: bool = False  # some file could not be read, which may pass without a change of it


def load(
    read: layers.Found,
    facts: model.HostFacts,
    accepted: Sequence[model.Layer],
    before: model.Config | None = None,
) -> Loaded:
    """Make sense of what was read; fall back on `accepted` (empty: there are none) as a whole.

    `before`: what was in force when the files were changed; what it captured and they do not is
    a warning.
    """
    found, restored = _restore(read.layers, accepted)
    if found == tuple(accepted):
        found = tuple(accepted)  # one copy, of what may be large
    is_unread = bool(read.problems)
    loaded = _build(found, facts, read.problems, has_worked=bool(accepted))
    warnings = (*restored, *_emptied(read.layers, loaded, accepted), *loaded.warnings)
    if loaded.config is not None and before is not None:
        warnings += _no_longer_captured(loaded.config, before, found, loaded.uncaptured)
    if loaded.problems and accepted:
        previous = _load_previous(accepted, facts)
        loaded = previous._replace(problems=loaded.problems, is_previous=True)
    return loaded._replace(is_unread=is_unread, warnings=warnings, restored=restored)


def _load_previous(accepted: Sequence[model.Layer], facts: model.HostFacts) -> Loaded:
    # sshd may have got a port of ours since they were accepted; that takes nothing away.
    return _build(
        tuple(accepted), facts._replace(ssh_ports=()), (), has_worked=True, is_accepted=True
    )


def _restore(
    found: Sequence[model.Layer], accepted: Sequence[model.Layer]
) -> tuple[tuple[model.Layer, ...], tuple[Problem, ...]]:
    """Let the accepted text stand in for a file that is gone or was emptied by accident."""
    kept = {layer.file: layer for layer in accepted if _says_something(layer.data)}
    restored, why = [], []
    for layer in found:
        old = kept.get(layer.file)
        if old is None or not _is_blank(layer.data):
            restored.append(layer)
            continue
        restored.append(old)
        state = "is gone"
        if layer.data is not None:
            state = "holds nothing but NUL bytes" if b"\0" in layer.data else "is empty"
        message = (
            f"{state}; what it said before stays in force"
            f" (to drop that, leave a comment in it: echo '#' > {layer.file})"
        )
        why.append(Problem(layer.file, 0, message))
    return tuple(restored), tuple(why)


def _emptied(
    found: Sequence[model.Layer], loaded: Loaded, accepted: Sequence[model.Layer]
) -> tuple[Problem, ...]:
    """Files in which comments alone are left: somebody's word, to be said all the same."""
    had = {layer.file for layer in accepted if _says_something(layer.data)}
    silent = [
        layer.file
        for layer in found[1:]
        if not _is_blank(layer.data) and not _says_something(layer.data)
    ]
    message = "sets nothing: every line of it is a comment"
    return tuple(Problem(file, 0, message) for file in silent if file in had or loaded.is_empty)


def _is_blank(data: bytes | None) -> bool:
    """Whether a file has no content at all, as after a full disk or a power loss."""
    return data is None or not data.removeprefix(_BOM).strip(_BLANKS)


def _says_something(data: bytes | None) -> bool:
    """Whether a file has more than comments."""
    if _is_blank(data):
        return False
    assert data is not None
    lines = data.removeprefix(_BOM).splitlines()
    return any(line.strip(_BLANKS) and not line.lstrip().startswith(b"#") for line in lines)


def _no_longer_captured(
    config: model.Config,
    before: model.Config,
    found: Sequence[model.Layer],
    said: Collection[str],
) -> tuple[Problem, ...]:
    """What was captured and is not any more as a whole, unless that is said already."""
    now, then = config.redirection, before.redirection
    lost = []
    if (then.outbound or then.outbound_ports) and not (now.outbound or now.outbound_ports):
        lost.append("outbound")
    if then.inbound and not now.inbound:
        lost.append("inbound")
    why = "the files name nothing for it"
    return tuple(
        Problem(found[1].file, 0, f"nothing {way} is captured any more: {why}")
        for way in lost
        if way not in said
    )


def _build(
    found: tuple[model.Layer, ...],
    facts: model.HostFacts,
    problems: tuple[Problem, ...],
    *,
    has_worked: bool,
    is_accepted: bool = False,
) -> Loaded:
    outcome = build.build_config(found, facts, is_accepted=is_accepted)
    problems = tuple(sorted({*problems, *outcome.problems}))
    mesh_files = {layer.file for layer in found[1:]}
    is_empty = not problems and not any(value.file in mesh_files for value in outcome.values)
    is_nothing = bool(problems) or (is_empty and not has_worked)
    return Loaded(
        config=None if is_nothing else outcome.config,
        layers=found,
        problems=problems,
        warnings=outcome.warnings,
        is_empty=is_empty,
        uncaptured=outcome.uncaptured,
        log_level=outcome.log_level,
    )


def refuse(previous: Loaded, refused: Loaded, reason: str, *, is_final: bool = True) -> Loaded:
    """The configuration before is in force again; say so until the files change.

    `is_final`: it is not tried again unless somebody asks.
    """
    again = "`reload` retries" if is_final else "retried automatically"
    text = f"rejected ({again}): {reason}"
    changed = [
        new.file
        for new, old in zip(refused.layers, previous.layers, strict=True)
        if new.data != old.data
    ]
    problems = tuple(Problem(file, 0, text) for file in changed)
    return previous._replace(layers=refused.layers, problems=problems, is_previous=True)


def load_accepted(accepted: Sequence[model.Layer], facts: model.HostFacts) -> Loaded | None:
    """What the accepted texts come to; None if there are none, or they mean nothing any more."""
    previous = _load_previous(accepted, facts) if accepted else None
    return previous if previous is not None and previous.config is not None else None


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
    """The accepted texts if they are of these files; an unreadable record counts as none."""
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
