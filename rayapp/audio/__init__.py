"""Audio in and out: decoding, encoding, levels."""
