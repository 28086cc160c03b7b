"""What runs inside a container; standard library only, named by string, imported by nobody else."""
