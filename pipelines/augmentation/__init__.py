"""Step 4: the speech as a ward would record it: rooms, noise, microphones."""
