"""The Ray Serve application: an OpenAI-compatible API for audio transcription."""
