"""Change the import, keep the code."""
