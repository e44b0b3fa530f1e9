"""Black-box tests: the real service, the public conformance suite and the public clients.

They need Node, real sockets and real time, so ``trial tests`` leaves them alone (but for the
unit tests of their own parts); ``python -m tests.conformance.run`` runs them.
"""
