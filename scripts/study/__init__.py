"""Fair comparisons of methods: the same tuning budget for each, several seeds, resumable and repeatable."""
