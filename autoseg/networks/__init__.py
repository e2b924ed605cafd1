"""Networks from a NetworkSpec, their weights, how they run on a device, and what they cost in memory."""
