"""Starting a command on this machine, on several by torchrun, or on a SLURM cluster, until it is done. Light."""
