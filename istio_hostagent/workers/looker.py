"""Look at files on file systems that may never answer, as istio-proxy.

Arguments: the paths. Out: one object for each, {"target", "entry", "is_program"}:
fingerprints of what the path leads to and of the entry itself, lists of three numbers or null.
"""

import json
import sys

from ..host import files


def main() -> None:
    """Look at every path once; who hangs here is killed, or left alone."""
    json.dump(list(map(_look, sys.argv[2:])), sys.stdout)


def _look(path: str) -> dict[str, object]:
    return {
        "target": files.fingerprint(path),
        "entry": files.fingerprint(path, follows_links=False),
        "is_program": files.is_program(path),
    }


if __name__ == "__main__":
    main()
