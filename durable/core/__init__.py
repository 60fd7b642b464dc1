"""The pure core: values in, values out. No I/O, no clock, no randomness, no logging, no threads.

Rule of this package: it imports the standard library only, and of that nothing that
reads the outside world (checked by import-linter and ruff, see pyproject.toml).
"""
