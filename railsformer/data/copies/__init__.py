"""Which videos are copies of each other."""
