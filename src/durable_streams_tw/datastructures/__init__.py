"""Containers that several packages share. They import nothing of this project."""
