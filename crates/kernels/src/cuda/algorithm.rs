//! Which algorithm cuDNN convolves with: keys under which a choice is kept, and the choice.

use crate::ConvShape;

/// In what a network's convolutions and activations are computed on a GPU.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 values and products.
    F32,
    /// f32 values, products rounded to TF32 (10 bits of mantissa), sums in f32.
    Tf32,
    /// bf16 values (7 bits of mantissa), sums in f32.
    Bf16,
}

impl Precision {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::Tf32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// One of the three products of a convolution.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    Forward,
    BackwardData,
    BackwardFilter,
}

/// What own kernels convolve on a Hopper card, in bf16: the layers of a ResNet-18 of
/// width 64 on 32×32 images. Taken together those of 256 and 512 channels alone are slower than cuDNN's;
/// but they do part of batch norm's work, and most leave half of the card to other networks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnShape {
    /// A first layer: 8 channels, three of them the image's, to 64 on 32×32 images; its input's
    /// gradient is left to cuDNN.
    First,
    /// 64 channels to 64 on 32×32 images.
    Narrow,
    /// 128 channels to 128 on 16×16 images.
    Wide,
    /// 256 channels to 256 on 8×8 images.
    Deep,
    /// 512 channels to 512 on 4×4 images.
    Deepest,
    /// 64 channels to 128, 32×32 images to 16×16.
    ToWide,
    /// 128 channels to 256, 16×16 images to 8×8.
    ToDeep,
    /// 256 channels to 512, 8×8 images to 4×4.
    ToDeepest,
    /// 64 channels to 128, 32×32 images to 16×16, by a kernel of 1×1: the shortcut beside
    /// [`OwnShape::ToWide`].
    ShortToWide,
    /// The same of 128 channels to 256, 16×16 images to 8×8.
    ShortToDeep,
    /// The same of 256 channels to 512, 8×8 images to 4×4.
    ShortToDeepest,
}

impl OwnShape {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::First,
        Self::Narrow,
        Self::Wide,
        Self::Deep,
        Self::Deepest,
        Self::ToWide,
        Self::ToDeep,
        Self::ToDeepest,
        Self::ShortToWide,
        Self::ShortToDeep,
        Self::ShortToDeepest,
    ];

    /// That of a convolution, if there are kernels for it.
    pub(crate) fn of(
        shape: &ConvShape,
        size: (usize, usize),
        precision: Precision,
    ) -> Option<Self> {
        Self::ALL.into_iter().find(|own| {
            let side = own.side() * own.stride();
            precision == Precision::Bf16
                && (shape.kernel, shape.stride) == (own.kernel(), own.stride())
                && shape.in_channels == own.inputs()
                && shape.out_channels == own.outputs()
                && size == (side, side)
        })
    }

    /// Whether there is a kernel for one of the three products.
    pub(crate) fn has(self, direction: Direction) -> bool {
        match direction {
            Direction::Forward => true,
            Direction::BackwardData => self != Self::First,
            Direction::BackwardFilter => self.kernel() == 3,
        }
    }

    /// Whether the kernel of the input's gradient lets that through a ReLU and takes sums of it: with a
    /// stride of 2 there are not enough registers.
    pub(crate) fn lets_through(self) -> bool {
        self.has(Direction::BackwardData) && self.stride() == 1
    }

    /// Channels of the input.
    pub(crate) fn inputs(self) -> usize {
        match self {
            Self::First => 8,
            Self::Narrow | Self::ToWide | Self::ShortToWide => 64,
            Self::Wide | Self::ToDeep | Self::ShortToDeep => 128,
            Self::Deep | Self::ToDeepest | Self::ShortToDeepest => 256,
            Self::Deepest => 512,
        }
    }

    /// Channels of the output.
    pub(crate) fn outputs(self) -> usize {
        match self {
            Self::First | Self::Narrow => 64,
            Self::Wide | Self::ToWide | Self::ShortToWide => 128,
            Self::Deep | Self::ToDeep | Self::ShortToDeep => 256,
            Self::Deepest | Self::ToDeepest | Self::ShortToDeepest => 512,
        }
    }

    /// Rows and columns of an image of the output.
    pub(crate) fn side(self) -> usize {
        match self {
            Self::First | Self::Narrow => 32,
            Self::Wide | Self::ToWide | Self::ShortToWide => 16,
            Self::Deep | Self::ToDeep | Self::ShortToDeep => 8,
            Self::Deepest | Self::ToDeepest | Self::ShortToDeepest => 4,
        }
    }

    /// From a pixel of the input to the next.
    pub(crate) fn stride(self) -> usize {
        match self {
            Self::First | Self::Narrow | Self::Wide | Self::Deep | Self::Deepest => 1,
            _ => 2,
        }
    }

    /// Rows and columns of the kernel.
    pub(crate) fn kernel(self) -> usize {
        match self {
            Self::ShortToWide | Self::ShortToDeep | Self::ShortToDeepest => 1,
            _ => 3,
        }
    }
}

/// What a choice depends on.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConvKey {
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) batch: usize,
    pub(crate) precision: Precision,
    pub(crate) deterministic: bool,
    pub(crate) direction: Direction,
}

impl ConvKey {
    pub(crate) fn new(
        shape: &ConvShape,
        (height, width): (usize, usize),
        batch: usize,
        precision: Precision,
        deterministic: bool,
        direction: Direction,
    ) -> Self {
        Self {
            in_channels: shape.in_channels,
            out_channels: shape.out_channels,
            kernel: shape.kernel,
            stride: shape.stride,
            height,
            width,
            batch,
            precision,
            deterministic,
            direction,
        }
    }

    /// How an error names it.
    pub(crate) fn describe(&self) -> String {
        format!(
            "a {0}x{0} convolution of stride {1} from {2} to {3} channels on {4} images of {5}x{6} \
             ({7:?}, {8:?})",
            self.kernel,
            self.stride,
            self.in_channels,
            self.out_channels,
            self.batch,
            self.height,
            self.width,
            self.direction,
            self.precision
        )
    }
}

/// An algorithm that cuDNN's heuristics offer, fastest first.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its number.
    pub(crate) algorithm: u32,
    /// Number of the kind of arithmetic it needs.
    pub(crate) math: u32,
    /// Whether cuDNN says that it works here.
    pub(crate) works: bool,
    /// Whether it gives the same bits every time.
    pub(crate) deterministic: bool,
    /// Bytes of workspace.
    pub(crate) memory: usize,
}

/// The candidates that may be used, in the order in which to try them.
pub(crate) fn usable(
    candidates: &[Candidate],
    deterministic: bool,
    memory_limit: usize,
) -> impl Iterator<Item = Candidate> {
    candidates.iter().copied().filter(move |candidate| {
        candidate.works
            && (candidate.deterministic || !deterministic)
            && candidate.memory <= memory_limit
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SHAPE: ConvShape = ConvShape {
        in_channels: 64,
        out_channels: 128,
        kernel: 3,
        stride: 2,
    };

    fn key() -> ConvKey {
        let (precision, direction) = (Precision::Bf16, Direction::Forward);
        ConvKey::new(&SHAPE, (32, 16), 128, precision, true, direction)
    }

    #[test]
    fn everything_a_choice_depends_on_is_in_its_key() {
        let wider = ConvShape {
            out_channels: 64,
            ..SHAPE
        };
        let keys = [
            key(),
            ConvKey::new(
                &wider,
                (32, 16),
                128,
                Precision::Bf16,
                true,
                Direction::Forward,
            ),
            ConvKey {
                in_channels: 32,
                ..key()
            },
            ConvKey { kernel: 1, ..key() },
            ConvKey { stride: 1, ..key() },
            ConvKey {
                height: 16,
                ..key()
            },
            ConvKey { width: 32, ..key() },
            ConvKey { batch: 64, ..key() },
            ConvKey {
                precision: Precision::F32,
                ..key()
            },
            ConvKey {
                precision: Precision::Tf32,
                ..key()
            },
            ConvKey {
                deterministic: false,
                ..key()
            },
            ConvKey {
                direction: Direction::BackwardData,
                ..key()
            },
            ConvKey {
                direction: Direction::BackwardFilter,
                ..key()
            },
        ];
        let count = keys.len();
        assert_eq!(keys.into_iter().collect::<HashSet<_>>().len(), count);
        assert_eq!(key(), key());
    }

    #[test]
    fn own_kernels_are_for_the_layers_of_a_resnet_18_in_bf16() {
        let shape = |in_channels, out_channels| ConvShape {
            in_channels,
            out_channels,
            kernel: 3,
            stride: 1,
        };
        let down = |in_channels, out_channels| ConvShape {
            stride: 2,
            ..shape(in_channels, out_channels)
        };
        let short = |in_channels, out_channels| ConvShape {
            kernel: 1,
            ..down(in_channels, out_channels)
        };
        let of = |shape, side| OwnShape::of(&shape, (side, side), Precision::Bf16);
        let known = [
            (shape(8, 64), 32, OwnShape::First),
            (shape(64, 64), 32, OwnShape::Narrow),
            (shape(128, 128), 16, OwnShape::Wide),
            (shape(256, 256), 8, OwnShape::Deep),
            (shape(512, 512), 4, OwnShape::Deepest),
            (down(64, 128), 32, OwnShape::ToWide),
            (down(128, 256), 16, OwnShape::ToDeep),
            (down(256, 512), 8, OwnShape::ToDeepest),
            (short(64, 128), 32, OwnShape::ShortToWide),
            (short(128, 256), 16, OwnShape::ShortToDeep),
            (short(256, 512), 8, OwnShape::ShortToDeepest),
        ];
        assert_eq!(known.map(|(_, _, own)| own), OwnShape::ALL);
        for (shape, side, own) in known {
            assert_eq!(of(shape, side), Some(own));
        }
        for (others, side) in [
            (shape(64, 64), 16),
            (shape(128, 128), 32),
            (shape(64, 128), 32),
            (shape(16, 64), 32),
            (shape(8, 128), 32),
            (shape(512, 512), 8),
            (down(64, 128), 16),
            (down(64, 64), 32),
            (short(64, 128), 16),
            (short(64, 256), 32),
            (
                ConvShape {
                    kernel: 1,
                    ..shape(64, 64)
                },
                32,
            ),
        ] {
            assert_eq!(of(others, side), None, "{others:?}");
        }
        let uneven = OwnShape::of(&shape(64, 64), (32, 16), Precision::Bf16);
        assert_eq!(uneven, None);
        for precision in [Precision::F32, Precision::Tf32] {
            assert_eq!(OwnShape::of(&shape(64, 64), (32, 32), precision), None);
        }
        for (at, own) in OwnShape::ALL.into_iter().enumerate() {
            assert_eq!(own as usize, at);
            assert!(own.has(Direction::Forward));
            assert_eq!(own.has(Direction::BackwardFilter), own.kernel() == 3);
            assert_eq!(own.has(Direction::BackwardData), own != OwnShape::First);
        }
    }

    #[test]
    fn an_error_names_the_whole_shape() {
        assert_eq!(
            key().describe(),
            "a 3x3 convolution of stride 2 from 64 to 128 channels on 128 images of 32x16 \
             (Forward, Bf16)"
        );
    }

    #[test]
    fn the_fastest_that_may_be_used_comes_first() {
        let candidate = |algorithm, works, deterministic, memory| Candidate {
            algorithm,
            math: 1,
            works,
            deterministic,
            memory,
        };
        let offered = [
            candidate(3, true, false, 10),
            candidate(5, false, true, 10),
            candidate(6, true, true, 1000),
            candidate(1, true, true, 100),
            candidate(0, true, true, 0),
        ];
        let chosen = |deterministic, limit| {
            let usable = usable(&offered, deterministic, limit);
            usable
                .map(|candidate| candidate.algorithm)
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(true, 100), [1, 0]);
        assert_eq!(chosen(true, 5000), [6, 1, 0]);
        assert_eq!(chosen(false, 100), [3, 1, 0]);
        assert!(usable(&[], true, 0).next().is_none());
    }
}
