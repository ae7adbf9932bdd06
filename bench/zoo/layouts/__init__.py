"""The table of layouts, one file an origin, in the order in which they are tried."""

from collections.abc import Mapping

from bench.zoo.layout import Layout
from bench.zoo.layouts import acl, advcl, ap_dpe, deacl, rocl, solo_learn, torchvision

PLAIN = torchvision.PLAIN
TABLE: tuple[Layout, ...] = (
    *ap_dpe.LAYOUTS,
    *deacl.LAYOUTS,
    *solo_learn.LAYOUTS,
    *advcl.LAYOUTS,
    *acl.LAYOUTS,
    *rocl.LAYOUTS,
    *torchvision.LAYOUTS,
)

ORIGINS: Mapping[str, tuple[str, int]] = {
    name: known for layout in TABLE if layout is not PLAIN for name, known in layout.origins.items()
}
"""By the name for ``--origin``: the title of the method and the year of its paper."""

__all__ = ["ORIGINS", "PLAIN", "TABLE"]
