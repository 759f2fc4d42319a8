"""The training state, the steps, the loop, its callbacks and checkpoints."""
