"""Tests with processes and stores that are killed at any moment, or whose disk is full.

A few kills are part of the default run. ``CRASH_ROUNDS=1000 trial tests.crash`` runs longer;
``CRASH_SEED`` repeats the requests of a run (not their timing), ``CRASH_DIRECTORY`` sets the
directory, and so the disk, of the stores.
"""
