"""Coqui TTS as a speech engine: any of its models, by name or path."""
