"""Drawn tissue: a tree in the shape of BreakHis, so that everything runs without a download."""
