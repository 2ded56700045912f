"""The front door: YAML, command line, reports."""

__version__ = "0.1.0"
