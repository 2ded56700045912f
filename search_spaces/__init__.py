"""What may vary: domains and spaces of hyperparameters."""
