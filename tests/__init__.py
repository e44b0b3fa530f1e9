"""All tests of the server. ``trial tests`` runs those that need no network and no real time.

Properties are tried on few examples, so that the whole is quick.
``HYPOTHESIS_PROFILE=thorough trial tests`` takes its time.
"""

import os

from hypothesis import HealthCheck, settings

# No deadline per example: machines differ in speed. In CI runs must be reproducible. One suite runs
# against every store, from a class for each, so an example that failed for one class is tried for
# the others too.
settings.register_profile(
    "ours",
    deadline=None,
    print_blob=True,
    max_examples=30,
    suppress_health_check=[HealthCheck.differing_executors],
)
settings.register_profile("ci", settings.get_profile("ours"), derandomize=True)
settings.register_profile("brief", settings.get_profile("ci"), max_examples=8)
settings.register_profile("thorough", settings.get_profile("ours"), max_examples=1500)
_usual = "ci" if settings.get_current_profile_name() == "ci" else "ours"
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", _usual))
