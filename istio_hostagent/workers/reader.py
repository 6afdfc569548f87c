"""Read environment files as istio-proxy: for files whose path somebody else than root can change.

Arguments: the paths. Out: one object for each, {"data": base64} or {"errno": number}: base64 adds
a third to a file, whatever is in it. "weak": {"path", "uid", "mode"} beside the data is a
component of the path that somebody else than root and istio-proxy can change. A symbolic link
planted by istio-proxy leads nowhere that istio-proxy could not read itself.
Nearly every start of ours waits for this one, so it loads next to nothing: the json module would
double its time, and neither side of this needs it.
"""

import binascii
import os
import sys

from ..host import files, ownership


def main() -> None:
    """Read every path once; a file that cannot be read is an answer, not an error."""
    sys.stdout.write("[" + ",".join(map(_read, sys.argv[2:])) + "]")


def _read(path: str) -> str:
    try:
        data = binascii.b2a_base64(files.read_bounded(path), newline=False)
    except OSError as error:
        return f'{{"errno": {error.errno or 0}}}'
    return f'{{"data": "{data.decode()}"{_weak(path)}}}'


def _weak(path: str) -> str:
    try:
        weak = ownership.find_weak(path, frozenset((0, os.geteuid())))
    except OSError:
        return ', "weak": {"path": "its directory", "uid": 0, "mode": 0}'
    if weak is None:
        return ""
    # A name of that kind needs no more than a hint; the json module would be one.
    name = "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in weak[0])
    return f', "weak": {{"path": "{name}", "uid": {weak[1].st_uid}, "mode": {weak[1].st_mode}}}'


if __name__ == "__main__":
    main()
