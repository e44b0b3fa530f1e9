"""Conformance tests: the server process, the public suite and the public clients.

They need Node, sockets and real time. ``python -m tests.conformance.run`` runs them; ``trial
tests`` runs only the unit tests of their parts.
"""
