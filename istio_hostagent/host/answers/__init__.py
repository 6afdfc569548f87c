"""What workers answer, read with suspicion: one module for each worker, named like it."""
