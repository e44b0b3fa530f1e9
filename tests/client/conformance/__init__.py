"""The public suite of clients against ours: cases in YAML, a runner and an adapter."""
