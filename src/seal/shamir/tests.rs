//! Against shares that other programs made, and round trips.

use proptest::prelude::*;

use super::*;

/// Deterministic, for tests only: never shares anything real.
fn counter(seed: u64) -> impl FnMut(&mut [u8]) -> bool {
    let mut state = seed;
    move |buffer| {
        for byte in buffer {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (mixed >> 32) as u8;
        }
        true
    }
}

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).expect("the vector is hexadecimal")
}

/// Published with another program that uses HashiCorp's package: two shares of
/// a mnemonic sentence.
#[test]
fn combine_gives_a_published_secret() {
    let shares = [
        hex(concat!(
            "13bbf4d17f5ea49e1600b468363a4cb9da9b9cd1853cba34f905bfa7f22d290379deb310b7e76544aa7a",
            "9b8c1abf3464970a4fbe216847eb8d7470797941f9bea6bf769186cd3290921d0511517243b0cb011d48",
            "474e990b744d6d83aead943d0350f1685f65bf04fb42e54205516f163e8e5bbe8f5a5c1977e95fa73abb",
            "30a5af65eb91f85eff9fd7720f4f3c218c84082edfdf6934d45303d754"
        )),
        hex(concat!(
            "7700b2570cc7a2cf017d432735e12b02fbf556e9e7e741acf32d5df7f8f56aaab8802e9f2abba8491de2",
            "2dc8bfc9acc35e77a94948b0b7f4efe0b188460c181012857ad50fec4edb172c5e7ad180e538d91a75d2",
            "9ef1456f5d2a6dd2cd0c3beabfc53a68b64f1d3929300b7ce06fe2320e38cdf7a1177b1bb5446d2379b2",
            "d7d3f32946a666c7ba2911cc27fce778eebfc71e94ab7fafb5d3bf777d"
        )),
    ];
    let secret = combine(&shares).expect("they belong together");
    assert_eq!(
        String::from_utf8_lossy(&secret),
        "slight taxi tunnel vast noise release cinnamon miracle wise dumb depart fox citizen \
         talk omit vanish speak airport range woman thought excess harbor brand"
    );
}

/// The five shares of a real `operator init` of OpenBao 2.7.2 (a throw-away
/// cluster): any three give one key, two do not.
#[test]
fn combine_gives_one_key_from_any_three_shares_of_openbao() {
    let shares = [
        "99ebe54c4a5b162120924229d910b7252c84a7568b1484fa32811b68a22e115216",
        "392959c8e49999051bbeb25a1310c537a4ee58e45352434569c135868a84ae621c",
        "a25761fd10f3a6c3da4aebe0c6789672385254873c2b39e7ec0857a3e9d63c0a80",
        "dfc7cf532f876eae81f23f31ecc6b75c64c34234af6456811f8de2a12af431415b",
        "8ca012808a293a5a5f775bb451b21a7b01a547253e448a2bd1462e412f129c5d1e",
    ]
    .map(hex);
    let all = combine(&shares).expect("they belong together");
    assert_eq!(all.len(), 32);
    for first in 0..5 {
        for second in first + 1..5 {
            let two = combine(&[&shares[first], &shares[second]]).expect("a value");
            assert_ne!(two, all);
            for third in second + 1..5 {
                let three = [&shares[first], &shares[second], &shares[third]];
                assert_eq!(combine(&three).expect("a value"), all);
            }
        }
    }
}

#[test]
fn split_refuses_what_vault_refuses() {
    let cases = [
        (&b"x"[..], 2, 3, "parts cannot be less than threshold"),
        (b"x", 256, 2, "parts cannot exceed 255"),
        (b"x", 3, 1, "threshold must be at least 2"),
        (b"x", 0, 0, "threshold must be at least 2"),
        (b"", 3, 2, "cannot split an empty secret"),
    ];
    for (secret, share_count, threshold, text) in cases {
        let refused = split(secret, share_count, threshold, counter(1));
        assert_eq!(refused.expect_err(text).to_string(), text);
    }
    let starved = split(b"x", 3, 2, |_| false);
    assert_eq!(starved.expect_err("starved"), ShamirError::NoRandomness);
}

#[test]
fn combine_refuses_what_vault_refuses() {
    let cases: [(&[&[u8]], &str); 5] = [
        (
            &[],
            "less than two parts cannot be used to reconstruct the secret",
        ),
        (
            &[b"foo"],
            "less than two parts cannot be used to reconstruct the secret",
        ),
        (&[b"foo", b"ba"], "all parts must be the same length"),
        (&[b"f", b"b"], "parts must be at least two bytes"),
        (&[b"foo", b"bao"], "duplicate part detected"),
    ];
    for (shares, text) in cases {
        assert_eq!(combine(shares).expect_err(text).to_string(), text);
    }
}

#[test]
fn split_into_the_most_shares_combines() {
    let shares = split(b"key", 255, 255, counter(3)).expect("splits");
    assert_eq!(shares.len(), 255);
    assert_eq!(&combine(&shares).expect("combines")[..], b"key");
    assert_ne!(&combine(&shares[1..]).expect("some value")[..], b"key");
}

/// With one share too few, every secret is equally possible: over all values
/// of the one coefficient, a share takes every value exactly once.
#[test]
fn share_below_the_threshold_tells_nothing() {
    for secret in [0, 1, 0x53, 0xff] {
        let mut seen = [false; 256];
        for coefficient in 0..=255 {
            let fill = |buffer: &mut [u8]| {
                buffer.fill(coefficient);
                true
            };
            let shares = split(&[secret], 2, 2, fill).expect("splits");
            seen[usize::from(shares[1][0])] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }
}

proptest! {
    #[test]
    fn any_threshold_of_shares_combines(
        secret in prop::collection::vec(any::<u8>(), 1..40),
        (share_count, threshold) in (2..12_usize).prop_flat_map(|count| (Just(count), 2..=count)),
        seed in any::<u64>(),
        order in any::<prop::sample::Index>(),
    ) {
        let mut shares = split(&secret, share_count, threshold, counter(seed)).expect("splits");
        shares.rotate_left(order.index(share_count));
        let combined = combine(&shares[..threshold]).expect("combines");
        prop_assert_eq!(&combined[..], &secret[..]);
    }

    #[test]
    fn combine_never_panics(shares in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..5)) {
        let _ = combine(&shares);
    }
}
