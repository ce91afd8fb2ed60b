"""Everything that knows how mlx-vlm registers, loads and feeds a model."""
