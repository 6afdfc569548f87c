"""Print the configuration that the files make; --explain says where every value comes from.

Exit status: 0 if it can be used, 78 if not; then every problem is listed, with file and line.
"""

import json
import os
import sys

from ..agent.oneshot import configuration, start
from ..config import build, encryption
from .options import Option, Values

OPTIONS = (
    Option("explain", "origin of every value, and more"),
    Option("json", "for programs"),
)


def execute(values: Values) -> int:
    """Print values to stdout, problems and warnings to stderr."""
    loaded, facts, sources = configuration.load(os.environ, start.begin(os.environ))
    found = build.build_config(loaded.layers, facts).values
    config = loaded.config
    encrypted = encryption.describe(config, config.proxy.kind) if config is not None else ""
    if values["json"]:
        shown = _to_json(found, loaded.problems, loaded.warnings) | {"encryption": encrypted}
        print(json.dumps(shown, indent=1))
    else:
        for value in found:
            print(_line(value) if values["explain"] else f"{value.key}={value.text}")
        if encrypted:
            print(f"# encryption: {encrypted}")
    for problem in loaded.problems:
        print(f"problem: {problem}", file=sys.stderr)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if loaded.is_empty:
        paths = f"{sources.cluster} and {sources.sidecar}"
        print(f"no configuration yet: {paths} set nothing", file=sys.stderr)
    return 78 if loaded.config is None else 0


def _line(value: build.Value) -> str:
    origin = f"{value.file}:{value.line}" if value.file else "default"
    words = [f"{value.key}={value.text}", f"  # {origin}"]
    words += [
        f", instead of {text!r} of {file}:{line}" if file else f", instead of {text!r}"
        for file, line, text in value.overrides
    ]
    if value.status:
        words.append(f"; {value.status}")
    return "".join(words)


def _to_json(values: object, problems: object, warnings: object) -> dict[str, object]:
    return {
        "version": 1,
        "values": [
            {
                "key": value.key,
                "text": value.text,
                "file": value.file,
                "line": value.line,
                "status": value.status,
            }
            for value in values  # type: ignore[attr-defined] # a tuple of Value
        ],
        "problems": [str(problem) for problem in problems],  # type: ignore[attr-defined] # likewise
        "warnings": [str(warning) for warning in warnings],  # type: ignore[attr-defined] # likewise
    }
