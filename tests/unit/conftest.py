"""Settings of the unit layer."""

import hypothesis

# A slow machine is no failure: what has to be fast is measured by the bench.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")
