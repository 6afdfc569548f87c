"""Settings of the unit layer."""

import hypothesis

from tests.lab import soak

# A slow machine is no failure: what has to be fast is measured by the bench.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, max_examples=soak.times(100, 3000)
)
hypothesis.settings.load_profile("any-machine")
