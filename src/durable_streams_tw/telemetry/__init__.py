"""What operators see: metrics, probes, logs for machines, traces."""
