"""TensorRT engines: their shapes, the builder, engines reused, files for a device."""
