"""What GPUs can do at most, for the share of it that training uses (MFU, Chowdhery et al. 2022, appendix B)."""

import re

# Operations a second of dense matrix products in bf16 (fp16 where there is no bf16) with sums in fp32, as NVIDIA's data
# sheets have them; their larger figures are those of sparse matrices. The first whose words are in a GPU's name counts.
DENSE_PEAKS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "GH200": 9.89e14,
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100 NVL": 8.35e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L40": 1.81e14,
    "A10G": 7.0e13,
    "A10": 1.25e14,
    "L4": 1.21e14,
    "RTX 4090": 1.65e14,
    "RTX 3090": 7.1e13,
    "V100": 1.25e14,
    "T4": 6.5e13,
}
# Words beside a name that make it another chip (RTX 4090 Laptop GPU, RTX 4090 D, RTX 3090 Ti) or a part of one.
OTHERS = {"Laptop", "D", "Ti", "MIG"}


def dense_peak(gpu: str) -> float | None:
    """Return the peak of a GPU, by the name that torch has for it; None where it is not known."""
    words = re.findall(r"[A-Za-z0-9]+", gpu)
    if OTHERS & set(words):
        return None
    # Between spaces a name is found only as whole words in a row: an A1000 is no A100.
    name = f" {' '.join(words)} "
    return next((peak for known, peak in DENSE_PEAKS.items() if f" {known} " in name), None)
