"""From files to mono samples at the rate of the mels."""
