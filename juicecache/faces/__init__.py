"""Thin faces of a volume: no rule of the file system lives here."""
