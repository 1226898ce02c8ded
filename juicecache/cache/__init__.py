"""Cache tiers of this machine: block key to bytes. Knows no file, inode or network.

tier        the contract
memory      in this process
directory   a folder on tmpfs or disk, shared by all processes of the node
stack       the tiers in order, with promotion
"""
