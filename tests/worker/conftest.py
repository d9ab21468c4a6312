"""The worker's tests have a root of their own; what holds for all tests holds here too."""

import tests.conftest  # noqa: F401 - loads the profile
