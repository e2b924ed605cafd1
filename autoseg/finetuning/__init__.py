"""Models that were trained before, ours or nnU-Net's: found, read as foreign files, and made the beginning of a training."""
