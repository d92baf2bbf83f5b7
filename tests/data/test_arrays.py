"""Arrays that are appended to against numpy's own files."""

import numpy as np
import pytest

from molino.data.arrays import append_array


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
@pytest.mark.parametrize("lengths", [(), (0,), (3, 0, 5), (1,) * 12, (100_000, 1)])
def test_the_file_is_the_one_numpy_saves(dtype, lengths, tmp_path):
    parts = [np.arange(length).astype(dtype) for length in lengths]
    whole = np.concatenate([np.empty(0, dtype), *parts])
    with append_array(tmp_path / "ours.npy", dtype) as array:
        for part in parts:
            array.append(part)
            array.append([])
        assert array.length == len(whole) and not (tmp_path / "ours.npy").exists()
    np.save(tmp_path / "theirs.npy", whole)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


def test_an_array_that_is_cut_off_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), append_array(tmp_path / "array.npy", np.int64) as array:
        array.append([1, 2])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
