"""Remove files that say who this host is, as istio-proxy, who can aim nobody else elsewhere.

In:  {"remove": [paths]}
Out: {"removed": [true or false, ...], "errors": [texts]} in the same order; neither true nor an
     error: it was not there.
"""

import json
import os
import sys


def main() -> None:
    """Answer one request."""
    removed, errors = [], []
    for path in json.load(sys.stdin)["remove"]:
        is_removed, error = False, ""
        try:
            os.unlink(path)
            is_removed = True
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as found:
            error = str(found.strerror)
        removed.append(is_removed)
        errors.append(error)
    json.dump({"removed": removed, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main()
