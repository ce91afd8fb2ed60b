"""Looking at what the model sees: token counts, pictures of slices, contact sheets of frames.

Everything here asks the functions that prepare a request (`slicing`, `prompt`, `media`, `video`), and computes nothing
of its own. `python -m minicpmv46 tokens`, `slices` and `frames` print and save it.
"""
