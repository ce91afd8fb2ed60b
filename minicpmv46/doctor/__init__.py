"""What `python -m minicpmv46 doctor` looks at: an installation (`installation.py`) and a checkpoint (`checkpoint.py`).

Both give findings, which `screen.py` prints, and facts for `--json`. Facts about mlx-vlm come from `plugin/status.py`.
"""
