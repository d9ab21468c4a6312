"""Compression of trained models: fewer bytes for the same answers, and what it cost, measured."""
