"""Integrity of a data set: what only all of its cases together tell, and the safe fixes of what one case has wrong."""
