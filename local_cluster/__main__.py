"""`python3 -m local_cluster`."""

import sys

from local_cluster import interrupts

# Before the rest is imported: Ctrl-C in the tenths of a second that this takes would print where it came.
interrupts.install()

from local_cluster.cli import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
