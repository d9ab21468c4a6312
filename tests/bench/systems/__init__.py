"""Whom the benchmark can measure, one file each."""
