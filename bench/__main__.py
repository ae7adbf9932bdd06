"""``python -m bench``: the command line, for launchers that start a module, such as torchrun."""

from bench.cli import main

main()
