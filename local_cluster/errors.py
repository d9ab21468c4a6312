"""What the command line tells the person instead of a traceback."""


class ClusterError(Exception):
    """Something the person can act on: the message says what was found and what to do."""


class CommandFailedError(ClusterError):
    """A program that was run ended with an error."""

    def __init__(self, argv: list[str], status: int, output: str) -> None:
        self.status = status
        self.output = output
        tail = "\n".join(output.strip().splitlines()[-15:])
        super().__init__(f"`{' '.join(argv)}` ended with status {status}:\n{tail}")
