"""What is wrong with a test set, refused or noted before hours go into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_ad.console import complain
from edge_ad.images import is_turned, refuse_mixed
from trainer.data.folder import MASK_SUFFIXES, TestImage, load_mask, masks_folder, only_alpha


def look_over(data: Path, images: Sequence[TestImage]) -> None:
    """Refuse, or note, what is wrong with test images before they are scored; decodes each file once.

    Raises:
        DataError: an unreadable image, grey mixed with colour, or a mask of another size than its image.
    """
    _note_missing_masks(data, images)
    shapes = refuse_mixed(image.path for image in images)
    masked = [(image, shape) for image, shape in zip(images, shapes, strict=True) if image.mask is not None]
    empty = [image for image, (height, width, *_) in masked if not load_mask(image, (height, width), None).any()]
    _note_empty_masks(empty, len(masked))
    _note_turned([image for image, _ in masked])


def _note_missing_masks(data: Path, images: Sequence[TestImage]) -> None:
    """Of defects without a mask there are no pixel figures; that a set has none at all is nothing to say."""
    defects = [image for image in images if image.defect]
    without = [image for image in defects if image.mask is None]
    if not without or not masks_folder(data).is_dir():
        return
    first = without[0]
    wanted = masks_folder(data) / first.path.parent.name / f"{first.path.stem}_mask{MASK_SUFFIXES[0]}"
    but = " but of the kinds of defect that have all theirs" if len(without) < len(defects) else ""
    complain(
        f"note: {len(without)} of {len(defects)} defect images have no mask, the first is {first.path}, "
        f"whose mask would be {wanted} (or {', '.join(MASK_SUFFIXES[1:])}): no pixel figures{but}"
    )


def _note_empty_masks(empty: Sequence[TestImage], of: int) -> None:
    masks = [image.mask for image in empty if image.mask is not None]
    if not masks:
        return
    hidden = sum(map(only_alpha, masks))
    alpha = f"; {hidden} of them are drawn in the alpha channel, which is not read: save them as grey" if hidden else ""
    complain(
        f"note: {len(masks)} of {of} masks are empty, the first is {masks[0]}: "
        f"pixel figures count no pixel of these images as a defect{alpha}"
    )


def _note_turned(masked: Sequence[TestImage]) -> None:
    """A mask that was drawn on the pixels as they are stored marks others; only cameras' JPEGs are looked at."""
    turned = [i.path for i in masked if i.path.suffix.lower() in (".jpg", ".jpeg") and is_turned(i.path)]
    if turned:
        complain(
            f"note: {len(turned)} images that have a mask have an EXIF orientation, the first is {turned[0]}: "
            "their masks must be drawn on the image as it is shown, turned"
        )
