"""The feature bank: what a tracker remembers of past frames, how it is read, and how it is kept small.

Knows nothing of networks, images or CVAT. Liang, Li, Jafari, Chen, NeurIPS 2020 (arXiv 2010.07958).
"""
