"""Checks of a whole store."""
