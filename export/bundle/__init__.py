"""What one bundle is and how its folder appears: whole, or not at all."""
