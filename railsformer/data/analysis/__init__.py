"""What is in a dataset, in numbers, pictures and advice."""
