"""Image classifiers of the Hub: loading them, one backbone under a head a task, labels against rows of a head."""
