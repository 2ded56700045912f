"""How we search: strategies, history, store, executors."""
