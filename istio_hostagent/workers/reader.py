"""Read environment files as istio-proxy: for files whose path somebody else than root can change.

In: {"paths": [path, ...]}. Out: one object for each, {"data": text} or {"errno": number}; the text
holds one character for each byte (Latin-1). A symbolic link planted by istio-proxy leads nowhere
that istio-proxy could not read itself.
"""

import json
import sys

from ..host import files


def main() -> None:
    """Read every path once; a file that cannot be read is an answer, not an error."""
    answers: list[dict[str, str | int | None]] = []
    for path in json.load(sys.stdin)["paths"]:
        try:
            answers.append({"data": files.read_bounded(path).decode("latin-1")})
        except OSError as error:
            answers.append({"errno": error.errno})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
