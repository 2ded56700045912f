"""How one candidate is trained: data, adapters, training loop, evaluation, checkpoints, export."""
