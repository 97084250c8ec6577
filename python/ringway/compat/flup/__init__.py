"""flup's module names."""
