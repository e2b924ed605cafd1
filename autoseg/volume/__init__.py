"""Pure functions on arrays: reorder axes, crop, normalize, resample."""
