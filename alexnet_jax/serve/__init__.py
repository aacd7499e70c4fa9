"""`--mode=serve`: a page on this machine where one drops an image and sees what the network makes of it."""
