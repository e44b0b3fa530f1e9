"""Tests of pages in a real Chromium, with real servers. `./check browser` runs them, trial does
not.
"""
