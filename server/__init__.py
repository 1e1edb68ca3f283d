"""The server: the engine, its services, the command line and the page."""
