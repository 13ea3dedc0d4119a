"""Blocks of which machines are wired, one a file."""
