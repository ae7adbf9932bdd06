"""What was found in a dataset when it was read: images read, files skipped, images converted, and what is doubtful."""

from bench.recipe import Settings
from bench.recipe.fields import Count, Text

_DARK = 64


class Inventory(Settings):
    """Counts of one dataset. A record carries them; they are no part of the recipe."""

    read: dict[Text, Count] = {}
    """Images by split: train, test and, where there are others for pre-training, pretraining."""
    skipped: dict[Text, Count] = {}
    """Files of an image folder that were not read, by suffix."""
    converted: dict[Text, Count] = {}
    """Images of an image folder that were not plain 8-bit RGB, by kind; one image may count under several."""
    constant: dict[Text, Count] = {}
    """Images whose pixels all have one value, by split."""
    brightest: dict[Text, Count] = {}
    """The largest value of any pixel, 0..255, by split."""
    duplicates: dict[Text, Count] = {}
    """Images equal to another to the last bit. ``train`` and ``test``: to an earlier one of the same split;
    ``test in train`` and ``test in pretraining``: test images that are also trained on."""

    def knows_most(self, test_images: int) -> bool:
        """Return whether more than half of the ``test_images`` are trained on: accuracy says nothing of new ones."""
        return 2 * self.duplicates.get("test in train", 0) > test_images

    def described(self) -> str:
        """Return the counts in one sentence; zeros are left out."""
        parts = ["read " + " and ".join(f"{count:,} {split}" for split, count in self.read.items()) + " images"]
        if self.skipped:
            nouns = {suffix: "folder" if suffix == "folder" else f"{suffix} file" for suffix in self.skipped}
            parts.append("skipped " + ", ".join(_counted(count, nouns[each]) for each, count in self.skipped.items()))
        if self.converted:
            parts.append("converted " + ", ".join(f"{count:,} ({kind})" for kind, count in self.converted.items()))
        parts += [
            f"{_counted(count, f'{split} image')} of one colour" for split, count in self.constant.items() if count
        ]
        parts += [
            f"no pixel of the {split} images is brighter than {value} of 255"
            for split, value in self.brightest.items()
            if value < _DARK
        ]
        equal = {where: _counted(count, "exact duplicate") for where, count in self.duplicates.items() if count}
        parts += [f"{counted} ({where})" for where, counted in equal.items()]
        return "; ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
