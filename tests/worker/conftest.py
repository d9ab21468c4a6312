"""The worker's tests have a root of their own; what holds for all tests holds here too."""

import os

# Processes that train together have a core each, or less: more threads would wait for one another by spinning. Torch
# reads it once, also for processes that are forked later.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tests.conftest  # noqa: F401 - loads the profile
