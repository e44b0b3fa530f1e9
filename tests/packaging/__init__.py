"""Does what a user installs work? Slow, so ``python -m tests.packaging.run`` and not a trial."""
