"""The parts of the Space's page."""
