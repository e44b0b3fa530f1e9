"""The API of programs that mount or use the streams in their own process."""
