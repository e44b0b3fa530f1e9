"""Parts of the stores that have a committer thread: durable and PostgreSQL."""
