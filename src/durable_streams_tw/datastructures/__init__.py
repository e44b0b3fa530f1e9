"""Containers that several packages share. They import no other package of the project."""
