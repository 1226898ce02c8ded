"""Pure values and arithmetic of the volume format: no I/O, no clock, no driver.

attr      one inode's attributes
layout    block keys, object names, spans of a file over blocks
slices    the 24-byte slice records and what they make visible
setting   the volume's format record: parsing, version gates, secrets
"""
