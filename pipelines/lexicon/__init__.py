"""Step 1: the terms that the recogniser should hear."""
