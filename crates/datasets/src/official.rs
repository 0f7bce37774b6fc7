//! What the official files of CIFAR-10 and CIFAR-100 hold, and their digests.

use crate::DatasetName;

/// One official file.
pub(crate) struct OfficialFile {
    pub(crate) name: &'static str,
    pub(crate) records: usize,
    pub(crate) sha256: &'static str,
}

/// What a data set's files look like.
pub(crate) struct Layout {
    pub(crate) name: DatasetName,
    /// How many labels each of a record's label bytes can have; the last one is the class.
    pub(crate) labels: &'static [u8],
    /// Under which keys the Python version has them.
    pub(crate) python_labels: &'static [&'static str],
    pub(crate) train: &'static [OfficialFile],
    pub(crate) test: OfficialFile,
    pub(crate) class_names: &'static [&'static str],
}

pub(crate) const CIFAR10: Layout = Layout {
    name: DatasetName::Cifar10,
    labels: &[10],
    python_labels: &["labels"],
    train: &[
        OfficialFile {
            name: "data_batch_1.bin",
            records: 10_000,
            sha256: "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        },
        OfficialFile {
            name: "data_batch_2.bin",
            records: 10_000,
            sha256: "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        },
        OfficialFile {
            name: "data_batch_3.bin",
            records: 10_000,
            sha256: "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        },
        OfficialFile {
            name: "data_batch_4.bin",
            records: 10_000,
            sha256: "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        },
        OfficialFile {
            name: "data_batch_5.bin",
            records: 10_000,
            sha256: "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        },
    ],
    test: OfficialFile {
        name: "test_batch.bin",
        records: 10_000,
        sha256: "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    class_names: &[
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
};

pub(crate) const CIFAR100: Layout = Layout {
    name: DatasetName::Cifar100,
    labels: &[20, 100],
    python_labels: &["coarse_labels", "fine_labels"],
    train: &[OfficialFile {
        name: "train.bin",
        records: 50_000,
        sha256: "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
    }],
    test: OfficialFile {
        name: "test.bin",
        records: 10_000,
        sha256: "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
    },
    class_names: &CIFAR100_CLASSES,
};

#[rustfmt::skip]
const CIFAR100_CLASSES: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple", "motorcycle", "mountain", "mouse", "mushroom", "oak", "orange", "orchid", "otter",
    "palm", "pear", "pickup_truck", "pine", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper",
    "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout", "tulip",
    "turtle", "wardrobe", "whale", "willow", "wolf", "woman", "worm",
];
