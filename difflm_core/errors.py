"""Every error a user can cause, in one tree.

A message says what was found, what was expected, where, and how to fix it. The command line
prints the message alone; anything that is not a `DiffLMError` is a defect of this library and
keeps its traceback.
"""

from __future__ import annotations


class DiffLMError(Exception):
    """Base of all errors that are explained to the user rather than traced."""


class ConfigError(DiffLMError):
    """A configuration key or value is wrong."""


class SchemaError(DiffLMError):
    """A schema is inconsistent, or does not fit the data."""


class DataError(DiffLMError):
    """Input records cannot be used."""


class ArtifactError(DiffLMError):
    """An artifact is missing, incomplete, damaged or of another format."""


class StageError(DiffLMError):
    """A stage could not finish."""
