"""Shared values of the tests of alexnet_jax.serve."""

NASTY = '<img src=x onerror=alert(1)>.png'  # a file name that is markup
