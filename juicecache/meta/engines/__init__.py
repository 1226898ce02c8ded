"""One file a database; each passes the contract suite of ``juicecache.testing``."""
