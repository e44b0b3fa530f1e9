"""Tests of the twistd service: settings, start, stop, and twistd processes."""
