"""A client of any server of the protocol, on treq: requests, followers and producers."""
