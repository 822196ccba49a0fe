"""One module for each kind of input; see `tests.fuzz`."""
