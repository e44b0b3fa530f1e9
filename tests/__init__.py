"""All tests of the server. ``trial tests`` runs those that need no network and no real time."""

from hypothesis import settings

# A slow machine is no bug, so an example has no deadline. In CI a run must not depend on luck.
settings.register_profile("ours", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("ours"), derandomize=True)
settings.load_profile("ci" if settings.get_current_profile_name() == "ci" else "ours")
