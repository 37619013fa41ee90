"""Training: one jit-compiled optax step, the loop around it, and checkpoints that hold all of it."""
