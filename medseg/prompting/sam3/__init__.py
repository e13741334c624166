"""SAM 3, which takes text: weights, the network on a slice, and the engine."""
