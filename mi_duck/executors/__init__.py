"""Where instances are trained: array jobs, Slurm, Dask."""
