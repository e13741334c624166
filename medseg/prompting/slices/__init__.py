"""A volume as slices, for models that see pictures: intensities, prompts and embeddings, from slice to slice."""
