"""Recovery at start and the doctor: the store against its own ground truth."""
