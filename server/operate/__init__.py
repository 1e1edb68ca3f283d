"""What whoever runs a server needs: access, health, metrics, logs, traces."""
