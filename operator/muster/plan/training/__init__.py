"""What a TrainingJob becomes: one policy a file, put together by `planner`."""
