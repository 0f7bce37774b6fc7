//! bf16 on the host: the upper half of an f32.

/// `value` rounded to bf16, to the nearest, ties to even; as the kernels round.
pub(crate) fn from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // Rounding could carry a NaN's mantissa away: keep it quiet instead.
        return (bits >> 16) as u16 | 0x40;
    }
    let tie = bits >> 16 & 1;
    ((bits + 0x7fff + tie) >> 16) as u16
}

/// The number that `bits` stand for.
pub(crate) fn to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_bits_of_a_number_are_kept() {
        for value in [0.0, 1.0, -1.3, 127.0 / 128.0, 3e38, -2e-38, f32::INFINITY] {
            let kept = to_f32(from_f32(value));
            let error = (kept - value).abs();
            assert!(kept == value || error <= value.abs() / 256.0, "{value}");
        }
        assert_eq!(to_f32(from_f32(-1.5)), -1.5);
        assert!(to_f32(from_f32(f32::NAN)).is_nan());
    }

    #[test]
    fn ties_go_to_the_even_neighbor() {
        // 1 + 1/256 lies between 1 and 1 + 1/128; 1 + 3/256 between 1 + 1/128 and 1 + 2/128.
        assert_eq!(to_f32(from_f32(1.0 + 1.0 / 256.0)), 1.0);
        assert_eq!(to_f32(from_f32(1.0 + 3.0 / 256.0)), 1.0 + 2.0 / 128.0);
        assert_eq!(to_f32(from_f32(1.0 + 1.01 / 256.0)), 1.0 + 1.0 / 128.0);
    }
}
