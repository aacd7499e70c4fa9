"""Values that the tests of alexnet_jax.serve share."""

MARKUP_NAME = '<img src=x onerror=alert(1)>.png'  # a file name that contains HTML markup
