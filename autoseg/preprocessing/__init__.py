"""From a case as it is on disk to arrays for the network, and back: forward.py and inverse.py, joined by one record."""
