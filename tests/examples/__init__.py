"""Tests of the programs of examples/ and of the tutorial, run as a reader would run them."""
