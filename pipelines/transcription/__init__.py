"""Recordings to text, as many as there are."""
