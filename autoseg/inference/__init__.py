"""Inference: sliding window, mirroring, fold averaging, and the way from logits to a label map on the case's own grid."""
