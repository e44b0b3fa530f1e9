"""Tests of the benchmarks' arithmetic. The measurements themselves are not unit tests."""
