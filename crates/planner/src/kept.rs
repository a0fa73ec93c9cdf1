//! How state becomes bytes and back: fixed-width little-endian numbers, lengths before lists, nothing named.
//!
//! What is read was written by this version (see `state`), so there is nothing to negotiate; what can't be right is refused.

use std::collections::VecDeque;
use std::sync::Arc;

/// Something that is kept.
pub(crate) trait Kept: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads it; `None` when the bytes end or can't be right.
    fn take(from: &mut Bytes<'_>) -> Option<Self>;
}

/// Bytes that are being read.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    fn next(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// A length, at most what is left: no list has elements without bytes.
    fn length(&mut self) -> Option<usize> {
        let n = usize::try_from(u64::take(self)?).ok()?;
        (n <= self.0.len()).then_some(n)
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Kept for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(from: &mut Bytes<'_>) -> Option<Self> {
                let bytes = from.next(size_of::<$type>())?;
                bytes.try_into().ok().map(<$type>::from_le_bytes)
            }
        }
    )*};
}
number!(u8, u16, u32, u64, i64, f32, f64);

/// Keeps a struct field by field.
macro_rules! kept {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::kept::Kept for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::kept::Kept::put(&self.$field, out);)*
            }

            fn take(from: &mut $crate::kept::Bytes<'_>) -> Option<Self> {
                Some($type { $($field: $crate::kept::Kept::take(from)?),* })
            }
        }
    };
}
pub(crate) use kept;

impl Kept for usize {
    fn put(&self, out: &mut Vec<u8>) {
        (*self as u64).put(out);
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        usize::try_from(u64::take(from)?).ok()
    }
}

impl Kept for Arc<str> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        let n = from.length()?;
        std::str::from_utf8(from.next(n)?).ok().map(Into::into)
    }
}

impl Kept for Box<str> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        let n = from.length()?;
        std::str::from_utf8(from.next(n)?).ok().map(Into::into)
    }
}

impl<T: Kept> Kept for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(self.is_some()).put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        match u8::take(from)? {
            0 => Some(None),
            1 => T::take(from).map(Some),
            _ => None,
        }
    }
}

impl<T: Kept> Kept for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        self.iter().for_each(|x| x.put(out));
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        let n = from.length()?;
        (0..n).map(|_| T::take(from)).collect()
    }
}

impl<T: Kept> Kept for Box<[T]> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        self.iter().for_each(|x| x.put(out));
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        Vec::take(from).map(Vec::into_boxed_slice)
    }
}

impl<T: Kept> Kept for VecDeque<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        self.iter().for_each(|x| x.put(out));
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        Vec::take(from).map(VecDeque::from)
    }
}

impl<T: Kept, const N: usize> Kept for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|x| x.put(out));
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        let all: Vec<T> = (0..N).map(|_| T::take(from)).collect::<Option<_>>()?;
        all.try_into().ok()
    }
}

impl<A: Kept, B: Kept> Kept for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut Bytes<'_>) -> Option<Self> {
        Some((A::take(from)?, B::take(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Thing {
        name: Arc<str>,
        list: Vec<(u32, i64)>,
        row: [f32; 40],
        maybe: Option<Box<str>>,
    }
    kept!(Thing { name, list, row, maybe });

    #[test]
    fn comes_back_as_it_was_and_every_cut_is_refused() {
        let thing =
            Thing { name: "é".into(), list: vec![(1, -2), (3, 4)], row: [0.5; 40], maybe: Some("x".into()) };
        let mut bytes = Vec::new();
        thing.put(&mut bytes);
        assert_eq!(Thing::take(&mut Bytes(&bytes)), Some(thing));
        assert!((0..bytes.len()).all(|cut| Thing::take(&mut Bytes(&bytes[..cut])).is_none()));
    }

    #[test]
    fn an_absurd_length_reserves_nothing() {
        assert_eq!(Vec::<u64>::take(&mut Bytes(&u64::MAX.to_le_bytes())), None);
        assert!(<Option<u8> as Kept>::take(&mut Bytes(&[7, 1])).is_none());
    }
}
