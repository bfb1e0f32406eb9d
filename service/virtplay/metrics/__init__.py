"""What Prometheus gets: the only part of the service that knows prometheus_client."""
