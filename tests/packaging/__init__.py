"""Tests of installations. They are slow: `python -m tests.packaging.run` runs them,
trial does not.
"""
