"""Tests of the configurations of docs/how-to/proxies with the proxies themselves."""
