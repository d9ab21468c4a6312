"""`python -m muster_worker`: the same as the command `muster-worker`."""

from muster_worker.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
