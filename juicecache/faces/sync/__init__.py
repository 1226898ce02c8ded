"""Bringing a tree into line with another: local files, volumes, anything that fsspec opens."""
