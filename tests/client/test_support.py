"""Supports: connected parts, their boxes, and masses."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.client.support import Box, boxes, support

MAP = np.array([[0, 0.1, 0, 0, 0], [0.2, 0, 0, 0, 0], [0, 0, 0, -0.4, -0.1]])


def test_the_support_is_where_any_channel_is_not_0() -> None:
    channels = np.stack([MAP, np.eye(3, 5)])
    assert support(channels).tolist() == ((MAP != 0) | (np.eye(3, 5) != 0)).tolist()
    assert support(MAP, None).sum() == 4


def test_boxes_are_of_connected_parts_the_strongest_first() -> None:
    found = boxes(MAP, None)
    assert [box[:5] for box in found] == [(2, 3, 2, 4, 2), (0, 0, 1, 1, 2)]
    np.testing.assert_allclose([box.mass for box in found], [0.5, 0.3])
    assert boxes(np.zeros((3, 4, 4))) == []


def test_one_axis_is_a_row_and_three_are_refused() -> None:
    assert boxes(np.array([1.0, 0, 2, 3]), None) == [Box(0, 2, 0, 3, 2, 5.0), Box(0, 0, 0, 0, 1, 1.0)]
    with pytest.raises(ValueError, match="one or two axes, not 3"):
        boxes(np.zeros((2, 2, 2)), None)
