"""Tests of `durable_streams_tw.telemetry`."""
