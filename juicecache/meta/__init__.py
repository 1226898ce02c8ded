"""The tree and its slices, transactional. Knows no object storage and no cache of blocks.

rows      typed rows, the tables of the format
engine    the contract of databases, the one retry loop
engines   one file a database
context   what an operation knows besides its rows
tree      names, inodes, links, renames, attributes
trash     hourly directories of removed entries
usage     volume totals and directory statistics
chunks    slices of files: commit, truncate, copy, drop, compaction
session   this client's row, sustained inodes, stale clients
membership  members of a cache group, in tables of our own
service   the only door for the floors above: caches, id batches
"""
