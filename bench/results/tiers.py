"""What tells apart several recipes that one tier's name has had: a tier's file can change, or be a user's own."""

from collections.abc import Iterable, Mapping

from bench.recipe import load_tier, tier_names
from bench.record import Record


def tier_forms(records: Iterable[Record]) -> Mapping[str, str]:
    """Return what is said behind a tier's name, by the digest of the tier; no entry: its name is enough.

    That is the case for the tiers that come with the bench, and where all ``records`` of a name have one digest.
    """
    digests: dict[str, set[str]] = {}
    for record in records:
        digests.setdefault(record.tier, set()).add(record.tier_sha256)
    shipped = {load_tier(name).digest() for name in tier_names()}
    several = {digest for same in digests.values() if len(same) > 1 for digest in same}
    return {digest: _form(digest) for digest in several - shipped}


def tier_called(record: Record) -> tuple[str, str]:
    """Return what a user may call the tier of ``record``: its name, and the name with what can tell it apart."""
    return record.tier, tier_text(record.tier, _form(record.tier_sha256))


def _form(digest: str) -> str:
    return digest[:8]


def tier_text(tier: str, form: str) -> str:
    """Return the name of a tier with what tells it apart."""
    return f"{tier} {form}".rstrip()
