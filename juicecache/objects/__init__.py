"""Object storage: names to bytes. Knows no block, inode or cache.

store     the contract
local     a directory
s3        S3 and every S3-compatible service
foreign   other kinds, through an fsspec file system
shards    one volume over several buckets
wrap      one wrapper a quality: retries, limits, compression, encryption
kinds     which store serves a storage kind and its Bucket address
build     the one place where they are put together
"""
