"""What an architecture is: its sizes and its cost."""
