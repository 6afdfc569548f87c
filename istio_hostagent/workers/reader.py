"""Read environment files as istio-proxy: for files whose path somebody else than root can change.

In: {"paths": [path, ...]}. Out: one object for each, {"data": base64} or {"errno": number}: base64
adds a third to a file, whatever is in it. A symbolic link planted by istio-proxy leads nowhere
that istio-proxy could not read itself.
"""

import binascii
import json
import sys

from ..host import files


def main() -> None:
    """Read every path once; a file that cannot be read is an answer, not an error."""
    answers: list[dict[str, str | int]] = []
    for path in json.load(sys.stdin)["paths"]:
        try:
            data = binascii.b2a_base64(files.read_bounded(path), newline=False)
            answers.append({"data": data.decode()})
        except OSError as error:
            answers.append({"errno": error.errno or 0})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
