"""Measures of semantic IDs and of what is retrieved with them, one self-contained `evaluate` folder each."""
