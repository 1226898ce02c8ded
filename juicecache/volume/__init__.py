"""Files out of metadata, object storage and caches."""
