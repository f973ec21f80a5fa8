"""Where instances are trained: the index of a job array, jobs of Slurm, workers of Dask; each instance by `mi_duck.runs`."""
