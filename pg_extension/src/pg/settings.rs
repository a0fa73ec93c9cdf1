//! Settings that the text of values depends on, pinned while rows are written: a decoding session may have any.
//!
//! `foreshard.fetch` has the same ones pinned by its declaration (`sql/20_library.sql`), so that both write the same bytes.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

const ROWS: [(&CStr, &CStr); 8] = [
    (c"datestyle", c"ISO, MDY"),
    (c"intervalstyle", c"postgres"),
    (c"timezone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"xmlbinary", c"base64"),
    (c"xmloption", c"content"),
    (c"lc_monetary", c"C"),
];

/// What the text of a definition depends on besides, where PostgreSQL writes it and where it is parsed again; sql/30_derive.sql has the
/// same for the latter.
const DEFINITIONS: [(&CStr, &CStr); 5] = [
    // Code of types in the definition may have changed it.
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"quote_all_identifiers", c"off"),
    (c"standard_conforming_strings", c"on"),
    (c"array_nulls", c"on"),
    (c"transform_null_equals", c"off"),
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
    // SAFETY: inside the transaction of the decoding, in which `release` leaves the level.
    LEVEL.set(Some(unsafe { pg_sys::NewGUCNestLevel() }));
    ROWS.into_iter().for_each(set);
}

/// Sets one setting for the present nest level, as function calls with SET clauses do it.
fn set((name, value): (&CStr, &CStr)) {
    // SAFETY: inside a transaction and a nest level. The present value is compared before anything else can change it.
    unsafe {
        let now = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if !now.is_null() && CStr::from_ptr(now) == value {
            return;
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

/// While it lives, the text of a definition is written and read as it is kept, whatever the session's settings.
pub(crate) struct AsKept {
    level: c_int,
}

impl AsKept {
    pub(crate) fn new() -> Self {
        // SAFETY: inside a transaction; Drop leaves the level, or the end of the (sub)transaction after an ERROR.
        let level = unsafe { pg_sys::NewGUCNestLevel() };
        ROWS.into_iter().chain(DEFINITIONS).for_each(set);
        AsKept { level }
    }
}

impl Drop for AsKept {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the level was entered by `new`, and what was entered in it has been left.
            unsafe { pg_sys::AtEOXact_GUC(true, self.level) }
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
