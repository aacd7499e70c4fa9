"""A local web page that classifies images with a trained network: `--mode=serve`."""
