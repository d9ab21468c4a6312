"""What a ModelDeployment becomes: one policy a file, put together by `planner`."""
