"""API for programs that mount or use streams in their own process."""
