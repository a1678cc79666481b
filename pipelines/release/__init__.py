"""Step 8: the gate that a model must pass to be served."""
