"""Object storage: names to bytes. Knows no block, inode or cache.

store     the contract
local     a directory
s3        S3 and every S3-compatible service
deferred  a store that is made at its first request
foreign   other kinds, through an fsspec file system
walk      the order in which directories list objects
shards    one volume over several buckets
wrap      what all wrappers share; one wrapper a quality:
retry     another try after what may pass
limit     how many requests and bytes at once
compress  lz4 and zstd (zstd itself in zstd)
encrypt   RSA with AES-256-GCM or ChaCha20-Poly1305
kinds     which store serves a storage kind and its Bucket address
build     the one place where they are put together
"""
