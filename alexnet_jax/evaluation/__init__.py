"""Evaluation of trained networks, alone or as an ensemble, and the description of a network."""
