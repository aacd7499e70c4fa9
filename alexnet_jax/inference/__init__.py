"""Inference on image files with a trained network: predictions and features."""
