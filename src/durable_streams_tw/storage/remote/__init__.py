"""Store in another process: front processes send requests to the owner of the store."""
