"""Client for any server of the protocol, built on treq: requests, followers, producers."""
