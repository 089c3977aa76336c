"""What is to be served, in a file: the file, what it says, and the way from there to what is asked of an instance."""
