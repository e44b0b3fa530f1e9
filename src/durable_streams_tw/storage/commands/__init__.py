"""Execution of commands in a transaction, shared by all stores."""
