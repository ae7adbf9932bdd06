"""Shared by all tests."""

import torch

# With a second process on the machine, a pool of threads makes tiny tensors twenty times slower.
torch.set_num_threads(1)
