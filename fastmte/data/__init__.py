"""Songs, labels and collections as files."""
