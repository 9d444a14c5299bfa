"""The pairing of images and caption files by names in one folder: `0.png` and `0.txt`, or webdataset's parts.

A *sample* is all files whose names begin alike up to the first dot; what follows is the *part*: `0.image.png` and
`0.caption.txt` are two parts of sample `0`.
"""

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from srpo_ray.data.prompts import COLUMNS
from srpo_ray.decode_image import SUFFIXES

CAPTION_SUFFIXES = (".txt", ".json")
_IMAGE = "image"


class Samples:
    """Images and captions by their names.

    An image has the caption of the same name but for the suffix. Else it has the caption of its sample (`0.txt`,
    `0.caption.txt`, `0.prompt.txt` or `0.text.txt`, also .json), if it is the sample's image: that named as the sample
    (`0.png`), else `0.image.png`, else the only one. Further images of such a sample, as masks, have no caption.
    A .txt file comes before a .json file of the same name.
    """

    def __init__(self, paths: Iterable[PurePath]) -> None:
        """Group files.

        Args:
            paths: All files of the folders, as a caption is found among them only.
        """
        self._stems: dict[PurePath, list[PurePath]] = {}
        self._samples: dict[PurePath, list[PurePath]] = {}
        for path in paths:
            self._stems.setdefault(path.parent / path.stem, []).append(path)
            self._samples.setdefault(_sample(path), []).append(path)
        self.images = [image for group in self._stems.values() for image in _of(group, SUFFIXES)]
        """All images, those of one name but for the suffix together."""
        self._with_image = {_sample(image) for image in self.images}
        self._shared: dict[PurePath, tuple[PurePath | None, list[PurePath]]] = {}

    def has_image(self, caption: PurePath) -> bool:
        """Tell if there is an image in the sample of a caption."""
        return _sample(caption) in self._with_image

    def caption(self, image: PurePath) -> PurePath | None:
        """The caption file of an image, None if there is none.

        Raises:
            ValueError: If there are several, or several images that the caption may belong to.
        """
        own = _only_caption(_of(self._stems[image.parent / image.stem], CAPTION_SUFFIXES))
        if own is not None:
            return own
        shared, images = self._shared_caption(_sample(image))
        return shared if image in images else None

    def is_further(self, image: PurePath) -> bool:
        """Tell if an image has no caption and stands beside the image that has the sample's caption.

        Raises:
            ValueError: As `caption`.
        """
        return self.caption(image) is None and self._shared_caption(_sample(image))[0] is not None

    def _shared_caption(self, sample: PurePath) -> tuple[PurePath | None, list[PurePath]]:
        """The caption of a sample and the images that it belongs to; several where they differ in the suffix alone."""
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
            f" it {sample.name}.{_IMAGE}{images[0].suffix}, or give each image a caption of its own name"
        )
    return list(images)


def _sample(path: PurePath) -> PurePath:
    return path.parent / path.name.split(".", 1)[0]


def _part(path: PurePath) -> str:
    """A name between its first dot and its last: `caption` of `0.caption.txt`, empty of `0.txt`."""
    return path.stem.partition(".")[2].lower()


def _of(paths: Sequence[PurePath], suffixes: Sequence[str]) -> list[PurePath]:
    """The paths that have some suffixes, whatever their case, in the order of the suffixes."""
    return [path for suffix in suffixes for path in paths if path.suffix.lower() == suffix]


def _only_caption(captions: Sequence[PurePath]) -> PurePath | None:
    """The only caption of the first kind that there is."""
    same = [path for path in captions if path.suffix.lower() == captions[0].suffix.lower()]
    if len(same) > 1:
        names = ", ".join(path.name for path in same[:3])
        raise ValueError(f"expected one caption for an image, got {names}; keep one of them")
    return same[0] if same else None
