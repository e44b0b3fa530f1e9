"""Server-Sent Events: one feed per stream, one encoding for all its subscribers."""
