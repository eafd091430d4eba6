"""Small sets of images in the layout of ImageNet, read as the tests want them."""

from nn_lib.data import DataConfig, images

BROKEN = [("train", 3), ("train", 8), ("train", 20), ("validation", 2)]


def config(folder: str, **fields) -> DataConfig:
    fields = {"name": "imagenette", "in_memory_limit": 0, "image_size": 16} | fields
    return DataConfig(data_dir=folder, shorter_side=18, **fields)


def cropped(folder: str, **fields) -> DataConfig:
    return config(folder, crop=images.random_resized_crop, **fields)


def contents(batches) -> list[bytes]:
    return [b"".join(batch[key].tobytes() for key in sorted(batch)) for batch in batches]
