"""What a bundle says of itself, and the bundle that is built in."""
