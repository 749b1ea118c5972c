"""What a run leaves for people to look at: figures, tables, one HTML page."""
