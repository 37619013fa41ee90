"""From a checkpoint to music: the decode loop and what is around it."""
