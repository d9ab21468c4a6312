"""Errors whose text is for the person who wrote the job, with the exit code a rank ends with."""

from __future__ import annotations


class TrainingError(Exception):
    """Training cannot go on; the message says what to change."""

    exit_code = 1


class ConfigurationError(TrainingError):
    """The job is written wrongly: trying again would end the same way.

    2 is what command lines use for wrong usage; jobs list it in `permanentExitCodes`.
    """

    exit_code = 2


class StorageError(TrainingError):
    """The storage cannot be read or written."""


class UnreadableError(StorageError):
    """Something is there that cannot be read: it may be whole, and be read another time."""


class FormatError(StorageError):
    """Something is there that another version has written, and this one cannot read: it may be whole."""
