"""Step 3: the sentences, spoken."""
