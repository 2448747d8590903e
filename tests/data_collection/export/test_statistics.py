"""Statistics of numbers and of images."""

import numpy as np

from data_collection.export.statistics import QUANTILES, PixelHistogram, summarize


def test_statistics_of_numbers_are_exact() -> None:
    values = np.random.default_rng(0).normal(size=(1001, 3)).astype(np.float32)
    found = summarize(values)
    assert found["count"] == [1001] and set(found) == {"min", "max", "mean", "std", "count", *QUANTILES}
    assert found["min"] == values.min(axis=0).tolist() and found["max"] == values.max(axis=0).tolist()
    np.testing.assert_allclose(found["mean"], values.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(found["std"], values.std(axis=0, dtype=np.float64))
    np.testing.assert_allclose(found["q10"], np.sort(values, axis=0)[100])
    np.testing.assert_allclose(found["q99"], np.sort(values, axis=0)[990])


def test_statistics_of_integers_are_integers() -> None:
    found = summarize(np.arange(5))
    assert found["min"] == [0] and isinstance(found["min"][0], int) and found["mean"] == [2.0]
    assert summarize(np.array([7]))["q01"] == [7.0]


def test_statistics_of_images_cover_every_pixel_of_all_parts() -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(3, 200, (7, 10, 12, 3), np.uint8)
    frames[..., 2] //= 2
    parts = PixelHistogram.none().plus(PixelHistogram.of(frames[:3])).plus(PixelHistogram.of(frames[3:]))
    found, channels = parts.summarize(), frames.reshape(-1, 3) / 255
    assert found["count"] == [7] and all(np.shape(found[name]) == (3, 1, 1) for name in found if name != "count")
    expected = {
        "min": channels.min(axis=0),
        "max": channels.max(axis=0),
        "mean": channels.mean(axis=0),
        "std": channels.std(axis=0),
        "q50": np.quantile(channels, 0.5, axis=0, method="inverted_cdf"),
        "q01": np.quantile(channels, 0.01, axis=0, method="inverted_cdf"),
        "q99": np.quantile(channels, 0.99, axis=0, method="inverted_cdf"),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(np.ravel(found[name]), value, atol=1e-12, err_msg=name)
