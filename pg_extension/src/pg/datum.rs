//! Comparing values by their bytes.

use pgrx::pg_sys;
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varsize_any};

use super::equality::text_bytes;

/// How values of a column are stored.
#[derive(Clone, Copy)]
pub(super) struct Storage {
    pub(super) by_value: bool,
    pub(super) length: i16,
}

/// Whether two values are the same bytes, and so have the same text. A value that is stored in two ways may count as different
/// if it is out of line.
///
/// # Safety
/// Both are values of that storage, not NULL and alive. What is unpacked goes to the current memory context.
pub(super) unsafe fn same(one: pg_sys::Datum, other: pg_sys::Datum, storage: Storage) -> bool {
    if one.value() == other.value() {
        return true;
    }
    if storage.by_value {
        return false;
    }
    // SAFETY: by contract; variable-length values start with a header that tells their size.
    unsafe {
        match storage.length {
            -1 => {
                let (a, b) = (one.cast_mut_ptr::<pg_sys::varlena>(), other.cast_mut_ptr());
                if varatt_is_1b_e(a) || varatt_is_1b_e(b) {
                    return false;
                }
                // The same length when packed, and the same bytes: no need to unpack.
                let packed = varatt_is_4b_c(a) && varatt_is_4b_c(b) && varsize_any(a) == varsize_any(b);
                if packed {
                    let size = varsize_any(a);
                    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
                    if std::slice::from_raw_parts(a, size) == std::slice::from_raw_parts(b, size) {
                        return true;
                    }
                }
                text_bytes(one) == text_bytes(other)
            }
            -2 => {
                std::ffi::CStr::from_ptr(one.cast_mut_ptr()) == std::ffi::CStr::from_ptr(other.cast_mut_ptr())
            }
            length => {
                let size = length as usize;
                std::slice::from_raw_parts(one.cast_mut_ptr::<u8>(), size)
                    == std::slice::from_raw_parts(other.cast_mut_ptr::<u8>(), size)
            }
        }
    }
}
