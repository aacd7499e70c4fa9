"""A trained network applied to image files: predictions and features."""
