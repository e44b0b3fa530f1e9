"""Storage: the store interface, the stores, and how a command reaches a disk."""
