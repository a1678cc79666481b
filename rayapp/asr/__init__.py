"""Recognisers: one Protocol, whatever the toolkit behind it."""
