"""SAM and MedSAM: weights, the network on a slice, the engine, and fine-tuning."""
