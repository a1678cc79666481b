"""Step 7: figures with intervals, and a report, from a manifest and two recognisers."""
