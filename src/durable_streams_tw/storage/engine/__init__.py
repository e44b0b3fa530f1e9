"""Key-value engine of the durable store: LMDB, key and record codecs, format version."""
