"""What is forgotten and what is kept: a whole task, a part of a data set, or images of some tasks of several."""
