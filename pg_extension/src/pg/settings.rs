//! Settings that the text of values depends on, pinned while rows are written: a decoding session may have any.
//!
//! `foreshard.fetch` has the same ones pinned by its declaration (`sql/20_library.sql`), so that both write the same bytes.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

const PINNED: [(&CStr, &CStr); 8] = [
    (c"datestyle", c"ISO, MDY"),
    (c"intervalstyle", c"postgres"),
    (c"timezone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"xmlbinary", c"base64"),
    (c"xmloption", c"content"),
    (c"lc_monetary", c"C"),
];

thread_local! {
    /// The nest level of the settings while they are pinned.
    static LEVEL: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Pins the settings until [`release`]. An ERROR takes the pins along: the transaction in which a change is decoded ends.
pub(super) fn pin() {
    if LEVEL.get().is_some() {
        return;
    }
    // SAFETY: inside the transaction of the decoding, as function calls with SET clauses do it. A setting's value is compared before
    // anything else can change it.
    unsafe {
        LEVEL.set(Some(pg_sys::NewGUCNestLevel()));
        for (name, value) in PINNED {
            let now = pg_sys::GetConfigOption(name.as_ptr(), true, false);
            if !now.is_null() && CStr::from_ptr(now) == value {
                continue;
            }
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                pgrx::PgLogLevel::ERROR as c_int,
                false,
            );
        }
    }
}

/// Sets back what `pin` changed; to be called before the transaction of the decoding ends.
pub(super) fn release() {
    if let Some(level) = LEVEL.take() {
        // SAFETY: the level was entered by `pin` in this transaction.
        unsafe { pg_sys::AtEOXact_GUC(true, level) }
    }
}

/// A transaction begins: pins of an earlier one that failed are gone.
pub(super) fn forget() {
    LEVEL.set(None);
}
