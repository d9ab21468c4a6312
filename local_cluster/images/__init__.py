"""Container images: built, kept as OCI layouts, brought onto the nodes, run."""
