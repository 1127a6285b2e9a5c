"""What executes a graph or an engine, behind one seam."""
