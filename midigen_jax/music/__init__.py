"""What music is here, in plain numpy: read ─▶ Notes ─▶ Slices ─▶ Tokens, and all the way back to MIDI."""
