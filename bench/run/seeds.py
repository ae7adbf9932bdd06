"""Several seeds of one recipe, as the user types them."""

from bench.errors import BenchError


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds in ``text``, such as "0,1,2", in that order; raises BenchError for anything else."""
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise BenchError(f"--seeds {text!r}: {wrong[0]!r} is not a seed. Type whole numbers, as in --seeds 0,1,2")
    seeds = [int(word) for word in words]
    twice = next((seed for place, seed in enumerate(seeds) if seed in seeds[:place]), None)
    if twice is not None:
        raise BenchError(f"--seeds {text!r}: {twice} stands there twice; each seed is one run. Keep one of them.")
    return tuple(seeds)
