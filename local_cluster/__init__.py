"""A real Kubernetes on this machine for development and tests: `python3 -m local_cluster --help`."""
