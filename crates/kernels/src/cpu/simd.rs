//! The vector operations the kernels are written in, once for each kind of processor.
//!
//! A kernel is a [`Task`]: generic code over [`Simd`], always inlined. [`Path::run`] enters it
//! through a function compiled for the chosen instruction set, so the whole loop nest is
//! compiled three times and chosen between at run time. The set of a [`Path`] was found on this
//! processor when the path was made.

use std::str::FromStr;
use std::sync::OnceLock;

use crate::{Error, Result};

/// A way through the kernels: which instruction set they use.
///
/// Figures are identical for one path whatever the number of threads; between paths they differ
/// in the last bits, because sums are rounded in another order.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// What every processor of the architecture has.
    Portable,
    /// x86-64 with AVX2 and fused multiply-add: 8 floats at a time.
    Avx2,
    /// x86-64 with AVX-512: 16 floats at a time.
    Avx512,
}

impl Path {
    /// The best path this processor has.
    pub fn detect() -> Self {
        [Self::Avx512, Self::Avx2]
            .into_iter()
            .find(|path| path.is_available())
            .unwrap_or(Self::Portable)
    }

    /// The path in use: the environment's `MESA_CPU` (`portable`, `avx2` or `avx512`), else the
    /// best one. Read once for the process.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPath`] or [`Error::UnavailablePath`] for a value that names none, or one
    /// that this processor lacks.
    pub fn current() -> Result<Self> {
        static CURRENT: OnceLock<Result<Path>> = OnceLock::new();
        CURRENT
            .get_or_init(|| match std::env::var("MESA_CPU") {
                Ok(name) if !name.is_empty() => name.parse(),
                _ => Ok(Self::detect()),
            })
            .clone()
    }

    /// Whether this processor can run the path.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && Self::Avx2.is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Its name, as `MESA_CPU` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Floats in a register of what [`Path::run`] runs.
    pub(crate) fn lanes(self) -> usize {
        struct Lanes<'a>(&'a mut usize);
        impl Task for Lanes<'_> {
            #[inline(always)]
            fn run<S: Simd>(self) {
                *self.0 = S::LANES;
            }
        }
        let mut lanes = 0;
        self.run(Lanes(&mut lanes));
        lanes
    }

    /// Runs `task` compiled for this path.
    ///
    /// A path that this processor lacks (one can be named without [`Path::current`]) runs the
    /// portable code.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if self.is_available() => {
                // SAFETY: the processor has AVX-512F, AVX2 and FMA: just asked.
                #[allow(unsafe_code)]
                unsafe {
                    run_avx512(task);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if self.is_available() => {
                // SAFETY: the processor has AVX2 and FMA: just asked.
                #[allow(unsafe_code)]
                unsafe {
                    run_avx2(task);
                }
            }
            _ => task.run::<Portable>(),
        }
    }
}

impl FromStr for Path {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let path = [Self::Portable, Self::Avx2, Self::Avx512]
            .into_iter()
            .find(|path| path.name() == name)
            .ok_or_else(|| Error::UnknownPath {
                name: name.to_owned(),
            })?;
        if path.is_available() {
            Ok(path)
        } else {
            Err(Error::UnavailablePath { name: path.name() })
        }
    }
}

/// A piece of work written over [`Simd`].
pub(crate) trait Task {
    /// Does the work. Implementations are `#[inline(always)]`: that is what compiles them for
    /// the instruction set of the caller.
    fn run<S: Simd>(self);
}

/// Vectors of [`Simd::LANES`] floats. `LANES` divides 16.
#[allow(unsafe_code)]
pub(crate) trait Simd {
    /// One register.
    type V: Copy;
    /// Floats in a register.
    const LANES: usize;

    /// All lanes `value`.
    fn splat(value: f32) -> Self::V;
    /// Reads [`Simd::LANES`] floats.
    ///
    /// # Safety
    ///
    /// They lie in one allocation.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Writes [`Simd::LANES`] floats.
    ///
    /// # Safety
    ///
    /// They lie in one allocation, borrowed mutably.
    unsafe fn store(to: *mut f32, value: Self::V);
    /// `a · b + c`, fused where the path has it.
    fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// [`Simd::mul_add`] of single floats.
    fn mul_add_one(a: f32, b: f32, c: f32) -> f32;
    /// `a + b`
    fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// Writes eight floats of each of eight columns as eight rows, `stride` floats apart.
    ///
    /// # Safety
    ///
    /// The floats lie in one allocation each, those written borrowed mutably.
    unsafe fn transpose(columns: [*const f32; 8], rows: *mut f32, stride: usize);
    /// The larger; zero for `relu(NaN)`, as `max(x, 0)` has it on x86.
    fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `value` where `gate > 0`, else zero: the gradient of a ReLU whose output was `gate`.
    fn where_positive(gate: Self::V, value: Self::V) -> Self::V;
}

/// Four floats and no instruction that a baseline processor lacks.
pub(crate) struct Portable;

#[allow(unsafe_code)]
impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self::V {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's promise; an array of floats is read unaligned.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(value) }
    }
    #[inline(always)]
    fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| Self::mul_add_one(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn mul_add_one(a: f32, b: f32, c: f32) -> f32 {
        // Not `f32::mul_add`: without the instruction that is a call into the C library.
        a * b + c
    }
    #[inline(always)]
    fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn transpose(columns: [*const f32; 8], rows: *mut f32, stride: usize) {
        for row in 0..8 {
            for (i, column) in columns.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { *rows.add(row * stride + i) = *column.add(row) };
            }
        }
    }
    #[inline(always)]
    fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn where_positive(gate: Self::V, value: Self::V) -> Self::V {
        std::array::from_fn(|i| if gate[i] > 0.0 { value[i] } else { 0.0 })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{run_avx2, run_avx512};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _CMP_GT_OQ, _mm256_add_ps, _mm256_and_ps, _mm256_cmp_ps, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_max_ps, _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_sub_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
        _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_mov_ps,
        _mm512_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_sub_ps,
    };

    use super::{Simd, Task};

    /// # Safety
    ///
    /// The processor has AVX-512F, AVX2 and FMA.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(crate) unsafe fn run_avx512<T: Task>(task: T) {
        task.run::<Avx512>();
    }

    /// # Safety
    ///
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn run_avx2<T: Task>(task: T) {
        task.run::<Avx2>();
    }

    // SAFETY of every block below: these types are named only in the two functions above, whose
    // callers have asked the processor for the instructions.

    /// # Safety
    ///
    /// That of [`Simd::transpose`], and the processor has AVX2.
    #[inline(always)]
    unsafe fn transpose_avx2(columns: [*const f32; 8], rows: *mut f32, stride: usize) {
        unsafe {
            let left = four_rows(columns[0], columns[1], columns[2], columns[3]);
            let right = four_rows(columns[4], columns[5], columns[6], columns[7]);
            for i in 0..4 {
                let upper = _mm256_permute2f128_ps::<0x20>(left[i], right[i]);
                let lower = _mm256_permute2f128_ps::<0x31>(left[i], right[i]);
                _mm256_storeu_ps(rows.add(i * stride), upper);
                _mm256_storeu_ps(rows.add((i + 4) * stride), lower);
            }
        }
    }

    /// Four columns of eight: in register `i` rows `i` and `i + 4`.
    ///
    /// # Safety
    ///
    /// Eight floats behind each pointer, and the processor has AVX2.
    #[inline(always)]
    unsafe fn four_rows(a: *const f32, b: *const f32, c: *const f32, d: *const f32) -> [__m256; 4] {
        unsafe {
            let (a, b) = (_mm256_loadu_ps(a), _mm256_loadu_ps(b));
            let (c, d) = (_mm256_loadu_ps(c), _mm256_loadu_ps(d));
            let (low_ab, high_ab) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (low_cd, high_cd) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0x44>(low_ab, low_cd),
                _mm256_shuffle_ps::<0xee>(low_ab, low_cd),
                _mm256_shuffle_ps::<0x44>(high_ab, high_cd),
                _mm256_shuffle_ps::<0xee>(high_ab, high_cd),
            ]
        }
    }

    pub(crate) struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;

        #[inline(always)]
        fn splat(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, value: __m512) {
            unsafe { _mm512_storeu_ps(to, value) }
        }
        #[inline(always)]
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn mul_add_one(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn transpose(columns: [*const f32; 8], rows: *mut f32, stride: usize) {
            unsafe { transpose_avx2(columns, rows, stride) }
        }
        #[inline(always)]
        fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn where_positive(gate: __m512, value: __m512) -> __m512 {
            unsafe {
                let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(gate, _mm512_setzero_ps());
                _mm512_maskz_mov_ps(mask, value)
            }
        }
    }

    pub(crate) struct Avx2;

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;

        #[inline(always)]
        fn splat(value: f32) -> __m256 {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, value: __m256) {
            unsafe { _mm256_storeu_ps(to, value) }
        }
        #[inline(always)]
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn mul_add_one(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn transpose(columns: [*const f32; 8], rows: *mut f32, stride: usize) {
            unsafe { transpose_avx2(columns, rows, stride) }
        }
        #[inline(always)]
        fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        fn where_positive(gate: __m256, value: __m256) -> __m256 {
            unsafe {
                let mask = _mm256_cmp_ps::<_CMP_GT_OQ>(gate, _mm256_setzero_ps());
                _mm256_and_ps(mask, value)
            }
        }
    }
}
