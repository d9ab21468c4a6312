"""Serves a model directory by the Open Inference Protocol v2."""
