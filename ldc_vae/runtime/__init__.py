"""Files, processes, checkpoints and the health of a run."""
