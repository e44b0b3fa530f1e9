"""Write-ahead log over a key-value engine: files, memtable, checkpoint."""
