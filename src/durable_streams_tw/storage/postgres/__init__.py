"""PostgreSQL store: streams in a database that any number of nodes share."""
