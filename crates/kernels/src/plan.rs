//! What is asked of a device about a batch of images, the same for all of them.

/// What is done to one image of a batch: cropped and mirrored, then stamped.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ImagePlan {
    /// Which of the images.
    pub image: usize,
    /// Where the crop starts, in rows and columns from the image's corner; negative ones show the
    /// fill color.
    pub shift: (i32, i32),
    /// Whether the crop is mirrored left to right.
    pub mirrored: bool,
    /// What is stamped on it then.
    pub stamp: Option<Stamp>,
    /// The class it is trained towards.
    pub label: usize,
}

/// A trigger and the place of its top-left pixel.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which of the triggers.
    pub trigger: usize,
    /// Row in the image.
    pub row: usize,
    /// Column in the image.
    pub column: usize,
}

impl ImagePlan {
    /// The image as it is.
    pub fn plain(image: usize, label: usize) -> Self {
        Self {
            image,
            shift: (0, 0),
            mirrored: false,
            stamp: None,
            label,
        }
    }
}

/// What the gradient of a target class is of.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum TargetGradient {
    /// Its probability, where that is less than this; zero elsewhere.
    Probability(f32),
    /// The logarithm of its probability.
    LogProbability,
}
