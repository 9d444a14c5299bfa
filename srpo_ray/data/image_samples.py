"""Pairing of images and caption files by name in one folder: `0.png` and `0.txt`, or the parts of webdataset.

A *sample* is the set of files whose names are equal up to the first dot; the rest is the *part*: `0.image.png` and
`0.caption.txt` are two parts of sample `0`.
"""

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from srpo_ray.data.prompts import COLUMNS
from srpo_ray.decode_image import SUFFIXES

CAPTION_SUFFIXES = (".txt", ".json")
_IMAGE = "image"


class Samples:
    """Images and captions, paired by name.

    The caption of an image is the file of the same name except for the suffix. Otherwise it is the caption of its
    sample (`0.txt`, `0.caption.txt`, `0.prompt.txt` or `0.text.txt`, also .json), if the image is the sample's main
    image: `0.png`, else `0.image.png`, else the only one. Further images of such a sample, such as masks, have no
    caption. A .txt file takes precedence over a .json file of the same name.
    """

    def __init__(self, paths: Iterable[PurePath]) -> None:
        """Group files.

        Args:
            paths: All files of the folders, captions included.
        """
        self._stems: dict[PurePath, list[PurePath]] = {}
        self._samples: dict[PurePath, list[PurePath]] = {}
        for path in paths:
            self._stems.setdefault(path.parent / path.stem, []).append(path)
            self._samples.setdefault(_sample(path), []).append(path)
        self.images = [image for group in self._stems.values() for image in _of(group, SUFFIXES)]
        """All images; those that differ only in their suffix are adjacent."""
        self._with_image = {_sample(image) for image in self.images}
        self._shared: dict[PurePath, tuple[PurePath | None, list[PurePath]]] = {}

    def has_image(self, caption: PurePath) -> bool:
        """Test if the sample of a caption has an image."""
        return _sample(caption) in self._with_image

    def caption(self, image: PurePath) -> PurePath | None:
        """Return the caption file of an image; None if there is none.

        Raises:
            ValueError: If there are several captions, or several images that the caption may belong to.
        """
        own = _only_caption(_of(self._stems[image.parent / image.stem], CAPTION_SUFFIXES))
        if own is not None:
            return own
        shared, images = self._shared_caption(_sample(image))
        return shared if image in images else None

    def is_further(self, image: PurePath) -> bool:
        """Test if an image has no caption because another image has the caption of the sample.

        Raises:
            ValueError: As `caption`.
        """
        return self.caption(image) is None and self._shared_caption(_sample(image))[0] is not None

    def _shared_caption(self, sample: PurePath) -> tuple[PurePath | None, list[PurePath]]:
        """Return the caption of a sample and its images: one, or several that differ only in their suffix."""
        if sample not in self._shared:
            files = self._samples[sample]
            captions = [path for path in _of(files, CAPTION_SUFFIXES) if _part(path) in ("", *COLUMNS)]
            caption = _only_caption(captions)
            self._shared[sample] = caption, _main_images(_of(files, SUFFIXES), sample, caption) if caption else []
        return self._shared[sample]


def _main_images(images: Sequence[PurePath], sample: PurePath, caption: PurePath) -> list[PurePath]:
    for part in ("", _IMAGE):
        named = [path for path in images if _part(path) == part]
        if named:
            return named
    if len(images) > 1:
        raise ValueError(
            f"expected one image for {caption.name}, got {', '.join(sorted(path.name for path in images)[:3])}; name"
            f" it {sample.name}.{_IMAGE}{images[0].suffix}, or name one caption after each image"
        )
    return list(images)


def _sample(path: PurePath) -> PurePath:
    return path.parent / path.name.split(".", 1)[0]


def _part(path: PurePath) -> str:
    """Part of a name between its first and last dot: `caption` of `0.caption.txt`, empty for `0.txt`."""
    return path.stem.partition(".")[2].lower()


def _of(paths: Sequence[PurePath], suffixes: Sequence[str]) -> list[PurePath]:
    """Paths with these suffixes, case-insensitively, in the order of the suffixes."""
    return [path for suffix in suffixes for path in paths if path.suffix.lower() == suffix]


def _only_caption(captions: Sequence[PurePath]) -> PurePath | None:
    """Return the caption with the suffix of the first one; None without captions. Refuse several with that suffix."""
    same = [path for path in captions if path.suffix.lower() == captions[0].suffix.lower()]
    if len(same) > 1:
        names = ", ".join(path.name for path in same[:3])
        raise ValueError(f"expected one caption for an image, got {names}; keep one of them")
    return same[0] if same else None
