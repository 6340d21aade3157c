"""Setting images aside for validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dyzoo.data.records import Sample
from dyzoo.data.tools.fingerprints import group_by_content
from dyzoo.errors import DatasetError


def split_samples(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples for training and for validation, each in the order in which they came.

    About `fraction` of the images that show each class go to validation, the rarest class dealt out first (iterative
    stratification; Sechidis et al., ECML PKDD 2011). Files with the same bytes stay together.

    Raises:
        DatasetError: there are fewer than two different images, or `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise DatasetError(f"the share for validation is {fraction:g}, expected more than 0 and less than 1")
    samples_of_path: dict[object, list[Sample]] = {}
    for sample in samples:
        samples_of_path.setdefault(sample.image_path, []).append(sample)
    groups = [
        [sample for path in paths for sample in samples_of_path[path]]
        for paths in group_by_content(sample.image_path for sample in samples)
    ]
    if len(groups) < 2:
        raise DatasetError(f"{len(groups)} different images cannot be split into training and validation")
    order = np.random.default_rng(seed).permutation(len(groups))
    chosen = _deal([groups[index] for index in order], fraction)
    in_validation = {id(sample) for index in chosen for sample in groups[order[index]]}
    return (
        [sample for sample in samples if id(sample) not in in_validation],
        [sample for sample in samples if id(sample) in in_validation],
    )


def _deal(groups: Sequence[Sequence[Sample]], fraction: float) -> set[int]:
    """Indices of the groups for validation: at least one, and not all."""
    # In how many images a group shows each class; None counts the images.
    counts = [Counter[int | None]() for _ in groups]
    for count, group in zip(counts, groups, strict=True):
        for sample in group:
            count.update({None, *sample.labels.tolist()})
    total = sum(counts, Counter[int | None]())
    wanted = {True: {key: fraction * n for key, n in total.items()}}
    wanted[False] = {key: n - wanted[True][key] for key, n in total.items()}
    left = dict.fromkeys(range(len(groups)))
    validation = set()
    while left:
        remaining = sum((counts[index] for index in left), Counter[int | None]())
        # The number of images, the key None, is dealt out at last: by what shows nothing.
        rarest = min(remaining, key=lambda key: (key is None, remaining[key], key or 0))
        for index in [index for index in left if rarest in counts[index]]:
            need = {side: (wanted[side][rarest], wanted[side][None]) for side in (False, True)}
            side = need[True] > need[False]
            for key, number in counts[index].items():
                wanted[side][key] -= number
            if side:
                validation.add(index)
            del left[index]
    if not validation:
        return {len(groups) - 1}
    return validation if len(validation) < len(groups) else validation - {len(groups) - 1}
