"""DICOM in and out: the only room that knows DICOM and its LPS coordinates."""
