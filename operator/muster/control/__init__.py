"""Everything that touches the world: events in, writes out. What should be is decided in `muster.plan`."""
