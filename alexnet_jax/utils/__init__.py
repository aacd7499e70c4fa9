"""Helpers that know nothing of AlexNet."""
