"""The server: stream operations behind every door, the Klein tree, and the in-process API."""
