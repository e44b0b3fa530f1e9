"""Telemetry for operators: metrics, health probes, structured logs, traces."""
