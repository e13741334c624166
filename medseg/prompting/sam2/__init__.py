"""SAM 2 and MedSAM2: slices as the frames of a video, in which a memory follows the object."""
