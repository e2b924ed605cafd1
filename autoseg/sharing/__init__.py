"""Sharing: a trained model as one folder or archive that holds nobody's name, and the way back, which trusts nothing."""
