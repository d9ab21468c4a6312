"""What runs inside the worker pods of Muster: the agent, the training runtime and the recipes."""

__version__ = "0.1.0"
