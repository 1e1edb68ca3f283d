"""The engine over gRPC and REST."""
