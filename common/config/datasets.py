"""What is known of each kind of data set: classes, statistics, layout. Imports no MindSpore."""
from dataclasses import dataclass

CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}


# Data set -> mean and standard deviation per channel, for values in 0..1. Any other data set: ImageNet's.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "digits": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


PIXELS = 3 * 32 * 32  # bytes of an image of CIFAR


@dataclass(frozen=True)
class Layout:
    """How one of the two CIFAR data sets is delivered.

    Args:
        key: its name in the configuration.
        title: its name for people.
        archive: file name of the archive.
        md5: checksum of the archive.
        folder: the folder inside the archive.
        train: pattern of the training files.
        test: the evaluation file.
        expected: the files that the archive holds, for messages.
        class_names: file with one class name per line.
        label_bytes: bytes before the pixels; the last one is the label.
        classes: number of classes.
    """

    key: str
    title: str
    archive: str
    md5: str
    folder: str
    train: str
    test: str
    expected: str
    class_names: str
    label_bytes: int
    classes: int

    @property
    def record(self) -> int:
        """Bytes of one record."""
        return self.label_bytes + PIXELS

    @property
    def test_folder(self) -> str:
        """A folder for the test file alone, which ConvMLP's original instructions have beside that of the archive."""
        return f"cifar-{self.classes}-val-bin"


LAYOUTS = {
    "cifar10": Layout("cifar10", "CIFAR-10", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530",
                      "cifar-10-batches-bin", "data_batch_*.bin", "test_batch.bin",
                      "data_batch_1.bin to data_batch_5.bin, test_batch.bin", "batches.meta.txt", 1, 10),
    "cifar100": Layout("cifar100", "CIFAR-100", "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8",
                       "cifar-100-binary", "train.bin", "test.bin", "train.bin, test.bin", "fine_label_names.txt", 2,
                       100),
}
