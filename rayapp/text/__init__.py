"""Texts: what scripts they are written in, how they are read aloud, and what makes two of them the same."""
