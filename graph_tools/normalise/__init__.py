"""One form for all models. `pipeline` takes the steps, a file each, and compares what comes out with the file."""
