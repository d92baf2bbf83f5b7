"""The peak of a GPU by the name that torch reports for it: each row of the table, and names that only look alike."""

import pytest

from molino.machine.peaks import DENSE_PEAKS, dense_peak

# Names as torch.cuda.get_device_name has them, and tera-operations a second.
NAMES = {
    "GB200": ("NVIDIA GB200", 2500),
    "B200": ("NVIDIA B200", 2250),
    "GH200": ("NVIDIA GH200 480GB", 989),
    "H200": ("NVIDIA H200", 989),
    "H100 PCIe": ("NVIDIA H100 PCIe", 756),
    "H100 NVL": ("NVIDIA H100 NVL", 835),
    "H100": ("NVIDIA H100 80GB HBM3", 989),
    "A100": ("NVIDIA A100-SXM4-80GB", 312),
    "L40S": ("NVIDIA L40S", 362),
    "L40": ("NVIDIA L40", 181),
    "A10G": ("NVIDIA A10G", 70),
    "A10": ("NVIDIA A10", 125),
    "L4": ("NVIDIA L4", 121),
    "RTX 4090": ("NVIDIA GeForce RTX 4090", 165),
    "RTX 3090": ("NVIDIA GeForce RTX 3090", 71),
    "V100": ("Tesla V100-SXM2-16GB", 125),
    "T4": ("Tesla T4", 65),
}


def test_these_are_all():
    assert DENSE_PEAKS.keys() == NAMES.keys()


@pytest.mark.parametrize("row", NAMES)
def test_every_row_is_found_by_a_real_name(row):
    name, tera = NAMES[row]
    assert dense_peak(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    ("name", "tera"), [("NVIDIA A100 80GB PCIe", 312), ("A100-PCIE-40GB", 312), ("Tesla V100-PCIE-32GB", 125)]
)
def test_other_names_of_the_same_chips(name, tera):
    assert dense_peak(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A1000", "NVIDIA A1000 Laptop GPU", "Quadro T400", "Tesla V100S-PCIE-32GB", "NVIDIA RTX 4000 Ada",
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA Mill", "",
    ],
)  # fmt: skip
def test_of_other_chips_and_of_parts_nothing_is_said(name):
    assert dense_peak(name) is None
