//! Arithmetic in GF(2^8) with the polynomial of AES, x^8 + x^4 + x^3 + x + 1.
//!
//! No table is looked up and no branch taken on a value: both would leak it
//! through the cache or the clock.

/// Sum, and difference.
pub fn add(left: u8, right: u8) -> u8 {
    left ^ right
}

/// Product.
pub fn multiply(left: u8, right: u8) -> u8 {
    let mut product = 0;
    let mut left = left;
    for bit in 0..8 {
        product ^= left & mask(right >> bit & 1);
        left = left << 1 ^ REDUCTION & mask(left >> 7);
    }
    product
}

/// The inverse; 0 gives 0. In a group of 255 elements, a^254 = a^-1.
pub fn invert(value: u8) -> u8 {
    let mut power = value;
    let mut inverse = 1;
    for _ in 1..8 {
        power = multiply(power, power);
        inverse = multiply(inverse, power);
    }
    inverse
}

/// All ones for 1, all zeros for 0; opaque, lest the optimiser make a branch
/// of it.
fn mask(bit: u8) -> u8 {
    std::hint::black_box(bit).wrapping_neg()
}

/// The polynomial without its highest term.
const REDUCTION: u8 = 0x1b;

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication as one learns it: shift and reduce, with branches.
    fn by_hand(left: u8, right: u8) -> u8 {
        let mut product = 0_u16;
        for bit in 0..8 {
            if right & 1 << bit != 0 {
                product ^= u16::from(left) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product & 1 << bit != 0 {
                product ^= 0x11b << (bit - 8);
            }
        }
        u8::try_from(product).expect("reduced")
    }

    #[test]
    fn multiply_agrees_with_long_multiplication_everywhere() {
        for left in 0..=255 {
            for right in 0..=255 {
                assert_eq!(multiply(left, right), by_hand(left, right));
            }
        }
    }

    /// FIPS 197, sections 4.2 and 4.2.1.
    #[test]
    fn multiply_gives_the_examples_of_the_standard() {
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
        assert_eq!(multiply(0x57, 0x10), 0x07);
    }

    #[test]
    fn invert_is_the_inverse_everywhere() {
        assert_eq!(invert(0), 0);
        for value in 1..=255 {
            assert_eq!(multiply(value, invert(value)), 1);
        }
        assert_eq!(invert(0x53), 0xca);
    }
}
