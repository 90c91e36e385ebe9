"""The parts of `constrained_decoding.py`."""
