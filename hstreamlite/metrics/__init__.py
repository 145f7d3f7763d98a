"""What a store counts, as values: rates, distributions, traffic. No clock, thread or file."""
