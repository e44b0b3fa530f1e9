"""The programs of examples/ and the tutorial, run as a reader would run them."""
