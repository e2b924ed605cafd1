"""Augmentation: parameters are drawn first, then applied, so that any patch can be made again."""
