"""Owns the version, and never anything else."""

__version__ = "0.1.0"
