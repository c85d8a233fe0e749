"""Whole clusters of real cores in one thread, under every fault that a seed can draw."""
