"""Step 2: sentences around the terms."""
