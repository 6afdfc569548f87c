"""How often counted tests repeat: a sample in every run, many times with HOSTAGENT_SOAK=1.

What comes to light once in some hundred repetitions is for `make soak`; each run of everything
shows that the sample still holds.
"""

import os

# A property of a test (record_property) with what it has counted, said at the end of a soak.
FIGURE = "figure"
IS_SOAKING = os.environ.get("HOSTAGENT_SOAK", "") == "1"


def times(sample: int, many: int) -> int:
    """Return one of two counts."""
    return many if IS_SOAKING else sample
