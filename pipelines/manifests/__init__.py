"""Step 5: what a run makes, and how it is written."""
