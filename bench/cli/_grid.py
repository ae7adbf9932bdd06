"""Grids on the command line: numbers with commas, ascending, each once."""

from fractions import Fraction

from bench.errors import BenchError


def parse_eps(text: str) -> tuple[float, ...]:
    """Return the radii in ``text``, such as "0,2/255,0.03"; raises BenchError for anything else."""
    return _checked("--eps", text, [_number("--eps", part, "0,2/255,4/255") for part in text.split(",")])


def parse_steps(text: str) -> tuple[int, ...]:
    """Return the numbers of steps in ``text``, such as "1,5,20"; raises BenchError for anything else."""
    numbers = [_number("--steps", part, "1,2,5,10,20,50,100") for part in text.split(",")]
    for number in numbers:
        if number != int(number):
            raise BenchError(f"--steps {text}: {number:g} is not a whole number. Type, for example, --steps 1,5,20")
    return tuple(int(number) for number in _checked("--steps", text, numbers))


def _number(option: str, text: str, example: str) -> float:
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ArithmeticError):
        raise BenchError(f"{option}: {text.strip()!r} is not a number. Type, for example, {option} {example}") from None


def _checked(option: str, text: str, values: list[float]) -> tuple[float, ...]:
    from bench.record import grid_fault

    if fault := grid_fault(values):
        raise BenchError(f"{option} {text}: the grid {fault}.")
    return tuple(values)
