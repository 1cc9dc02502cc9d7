"""Trainers: what every method shares, on two streams of images."""
