"""Worker processes of ``--workers``: supervisor, owner of the store, and fronts that serve HTTP."""
