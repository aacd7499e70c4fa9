"""Figures: what a trained network says and has learned, drawn as in the paper."""
