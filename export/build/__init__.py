"""The stages of a build in order, from checked inputs to a manifest."""
