"""Runs as jobs of a Slurm cluster: what is asked of it, what it says, and what happens inside a job."""
