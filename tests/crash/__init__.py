"""Tests with real processes and stores: killed at any moment, or on a full disk.

A few kills are part of the usual run. ``CRASH_ROUNDS=1000 trial tests.crash`` takes its time;
``CRASH_SEED`` repeats a run's script (not its timing), ``CRASH_DIRECTORY`` says on which disk.
"""
