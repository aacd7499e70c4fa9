"""Helpers that do not depend on AlexNet."""
