"""Where samples lie in a model: guessed, rewritten where the file fixes their number, and proven by runs."""
