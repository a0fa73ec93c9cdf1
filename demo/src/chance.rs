//! Choices that look random and are the same in every run.

/// A number that depends on nothing but its arguments (the finaliser of splitmix64).
pub(crate) fn chance(id: i64, salt: u64) -> u64 {
    let mut x =
        id.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xd1b5_4a32_d192_ed03);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Whether a thing of this probability happens.
pub(crate) fn happens(id: i64, salt: u64, percent: u64) -> bool {
    chance(id, salt) % 100 < percent
}

/// A number of `low..=high`.
pub(crate) fn between(id: i64, salt: u64, low: i64, high: i64) -> i64 {
    let span = (high - low + 1).cast_unsigned();
    low + (chance(id, salt) % span).cast_signed()
}
