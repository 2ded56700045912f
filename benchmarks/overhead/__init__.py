"""What the search itself costs: the time of its decisions."""
