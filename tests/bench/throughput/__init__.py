"""What the agent and the runtime cost in samples a second: the same training in a Muster pod and under torchrun."""
