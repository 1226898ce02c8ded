"""Cache tiers of this machine: block key to bytes. Knows no file, inode or network.

tier          the contract
policy        which blocks go when room is needed: pure orders
memory        in this process
directory     a folder on tmpfs or disk, shared by all processes of the node
block_file    the form of one block in such a folder
space         its quota and free space, kept together by all processes
books         the file that says what they use
room          what it may still take
files         what lies in its folder
access        whose it is: one user's, or a group's
memory_limit  what cgroups leave
health        what the medium refuses, and since when
checking      which checksums are looked at
claims        who is loading which block
group         several folders as one tier
stack         the tiers in order, with promotion
"""
