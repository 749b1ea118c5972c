"""From files to 12 kHz mono samples."""
