"""A chart as a file of its own, which no page's style sheet reaches."""

_STYLE = (
    "<style>text{font:11px sans-serif;fill:#5d626b}.grid{stroke:#e3e0d7;fill:none}"
    ".line{stroke:#0c6170;stroke-width:1.75;fill:none;stroke-linejoin:round}.dot{fill:#0c6170}</style>"
)


def standalone(svg: str) -> str:
    """Return the chart ``svg`` with its colours inside, on white."""
    opening, sign, rest = svg.partition(">")
    return f'{opening} width="300"{sign}{_STYLE}<rect width="100%" height="100%" fill="#ffffff"/>{rest}\n'
