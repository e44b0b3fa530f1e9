"""Tests of the twistd service: options, start, stop, and twistd itself."""
