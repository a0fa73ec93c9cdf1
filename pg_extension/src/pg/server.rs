//! How the server is set up, and waiting for its other sessions.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::Oid;

/// What keeps this server from decoding for anybody.
pub(crate) struct Fault {
    /// What is wrong.
    pub(crate) message: String,
    /// The statement that mends it.
    pub(crate) mend: String,
}

/// `None` if a slot with the plugin foreshard can be made and used. A role that may not read these settings may learn this much.
pub(crate) fn fault() -> Option<Fault> {
    // SAFETY: a variable that only the start of the server sets.
    if unsafe { pg_sys::wal_level } < pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32 {
        return Some(Fault {
            message: "wal_level is not logical".into(),
            mend: "ALTER SYSTEM SET wal_level = logical; -- and restart the server".into(),
        });
    }
    // SAFETY: a NUL-terminated name; the value is a NUL-terminated string that is copied at once, or NULL where this release has
    // no such setting. Nothing of it but the plugins' names is told.
    let listed = unsafe {
        let value = pg_sys::GetConfigOption(c"output_plugin_libraries".as_ptr(), true, false);
        if value.is_null() {
            return None;
        }
        CStr::from_ptr(value).to_string_lossy().into_owned()
    };
    let names = |list: &str| -> Vec<String> {
        list.split(',')
            .map(|name| name.trim().trim_matches('"').to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    };
    let mut wanted = names(&listed);
    if wanted.iter().any(|name| name == "foreshard") {
        return None;
    }
    wanted.push("foreshard".into());
    Some(Fault {
        message: "the server does not load the output plugin foreshard: it is not in output_plugin_libraries"
            .into(),
        mend: format!(
            "ALTER SYSTEM SET output_plugin_libraries = {}; -- then SELECT pg_reload_conf()",
            wanted.join(", ")
        ),
    })
}

/// Waits for transactions that are changing `table` with a lock against other writers, and keeps new ones out until the end of
/// this transaction.
pub(crate) fn wait_for_writers(table: Oid) {
    // SAFETY: an ordinary lock on a relation, released by the end of the transaction.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::RowExclusiveLock as i32) }
}
