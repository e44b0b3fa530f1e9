"""Tests of the benchmarks' arithmetic; the measuring itself is no unit test."""
