"""What `downstream.py` measures: systems that need no training, and the tables."""
