"""Muster: a Kubernetes operator that trains and serves large PyTorch models."""

__version__ = "0.1.0"
