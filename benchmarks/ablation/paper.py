"""The numbers of Dai et al., CVPR 2021 (arXiv 2106.08322), section "Ablation Study": box AP in percent on COCO val.

ATSS on ResNet-50. The baseline there is ATSS with its towers of convolutions, whose place the blocks take.
"""

from __future__ import annotations

SOURCE = "Dai et al., CVPR 2021, ablation study: ATSS on ResNet-50, COCO val"

ATTENTIONS = {
    (False, False, False): 39.0,
    (True, False, False): 39.9,
    (False, True, False): 41.4,
    (False, False, True): 40.3,
    (False, True, True): 42.0,
    (True, False, True): 40.6,
    (True, True, False): 41.9,
    (True, True, True): 42.6,
}
"""AP by scale-aware, spatial-aware and task-aware attention, in the paper's order; the first is the baseline."""

DEPTHS = {0: 39.0, 1: 36.7, 2: 39.5, 4: 42.0, 6: 42.6, 8: 42.5, 10: 42.3}
"""AP by the number of blocks with all attentions; 0 is the baseline."""
