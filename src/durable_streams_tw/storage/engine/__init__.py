"""Key-value engine of the durable store: LMDB, write-ahead log, codecs, format version."""
