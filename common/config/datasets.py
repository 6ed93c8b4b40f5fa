"""What is known of each kind of data set, in one table. Imports no MindSpore."""
from dataclasses import dataclass

PIXELS = 3 * 32 * 32  # bytes of an image of CIFAR


@dataclass(frozen=True)
class DataSet:
    """One value of the key ``dataset``.

    Args:
        title: its name for people.
        spellings: other values that mean it.
        classes: number of classes; 0: as many as the data have.
        mean, std: per channel, for values in 0..1; ImageNet's where the data set has none of its own.
        in_repository: its images come with the code and need no folder.
    """

    title: str
    spellings: tuple[str, ...] = ()
    classes: int = 0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    in_repository: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageNetTest(DataSet):
    """Other images, or other labels, for networks that were trained on ImageNet; for evaluations alone.

    Args:
        address: where it is explained and to be had.
        classes_file: file of ``common/data`` with the names of its class folders; empty: all of ImageNet's.
        numbered: its class folders are named by ImageNet's numbers, 0 to 999.
        relabelled: its images are those of ImageNet's evaluation, with the labels of ReaL besides.
    """

    address: str
    classes_file: str = ""
    numbered: bool = False
    relabelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Cifar(DataSet):
    """One of the two CIFAR data sets, and how its binary version is delivered.

    Args:
        key: its name in the configuration.
        archive: file name of the archive.
        md5: checksum of the archive.
        folder: the folder inside the archive.
        train: pattern of the training files.
        test: the evaluation file.
        expected: the files that the archive holds, for messages.
        class_names: file with one class name per line.
        label_bytes: bytes before the pixels; the last one is the label.
    """

    key: str
    archive: str
    md5: str
    folder: str
    train: str
    test: str
    expected: str
    class_names: str
    label_bytes: int

    @property
    def record(self) -> int:
        """Bytes of one record."""
        return self.label_bytes + PIXELS

    @property
    def test_folder(self) -> str:
        """A folder for the test file alone, which ConvMLP's original instructions have beside that of the archive."""
        return f"cifar-{self.classes}-val-bin"


CIFAR10 = Cifar(
    "CIFAR-10", ("cifar-10",), 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), key="cifar10",
    archive="cifar-10-binary.tar.gz", md5="c32a1d4ab5d03f1284b67883e8d87530", folder="cifar-10-batches-bin",
    train="data_batch_*.bin", test="test_batch.bin", expected="data_batch_1.bin to data_batch_5.bin, test_batch.bin",
    class_names="batches.meta.txt", label_bytes=1)
CIFAR100 = Cifar(
    "CIFAR-100", ("cifar-100",), 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), key="cifar100",
    archive="cifar-100-binary.tar.gz", md5="03b5dce01913d631647c71ecec9e9cb8", folder="cifar-100-binary",
    train="train.bin", test="test.bin", expected="train.bin, test.bin", class_names="fine_label_names.txt",
    label_bytes=2)
DATASETS = {
    "imagenet": DataSet("ImageNet", ("imagenet2012", "imagenet-1k")),
    "imagenet_real": ImageNetTest("ImageNet with the labels of ReaL", relabelled=True,
                                  address="https://github.com/google-research/reassessed-imagenet"),
    "imagenet_v2": ImageNetTest("ImageNet-V2", numbered=True, address="https://github.com/modestyachts/ImageNetV2"),
    "imagenet_a": ImageNetTest("ImageNet-A", classes_file="imagenet_a_classes.txt",
                               address="https://github.com/hendrycks/natural-adv-examples"),
    "imagenet_r": ImageNetTest("ImageNet-R", classes_file="imagenet_r_classes.txt",
                               address="https://github.com/hendrycks/imagenet-r"),
    "imagenet_sketch": ImageNetTest("ImageNet-Sketch", address="https://github.com/HaohanWang/ImageNet-Sketch"),
    "folder": DataSet("class folders"),
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "digits": DataSet("digits", (), 10, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), in_repository=True),
    "list": DataSet("a list of images"),
}


def is_cifar(name: str) -> bool:
    """Whether a value of the key ``dataset`` means one of the CIFARs, which are files of records and not of images."""
    return isinstance(DATASETS[name], Cifar)
