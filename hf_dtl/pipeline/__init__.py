"""One run: stages that are done once, what they cost, and what is written."""
