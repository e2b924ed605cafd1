"""Training of one fold: batches, losses, optimization, state and loop."""
