"""The configurations of docs/how-to/proxies, in the proxies that they are for."""
