"""What runs in processes of its own: engines that generate under a constraint, libraries that make masks."""
