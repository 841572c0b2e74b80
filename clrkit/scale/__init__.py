"""Several processes, several runs at a time, SLURM."""
