"""Muster looking after many ModelDeployments on simulated nodes, beside a floor."""
