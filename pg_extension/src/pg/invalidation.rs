//! Which relations changed their definition, as PostgreSQL's cache invalidations tell. While decoding they are replayed at
//! their place in the log; between transactions they also tell of what other sessions do right now.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::Oid;

/// What was invalidated since the last look.
#[derive(Debug, Default)]
pub(crate) struct Invalidated {
    /// Everything may have changed.
    pub(crate) all: bool,
    /// These relations may have changed.
    pub(crate) relations: Vec<Oid>,
}

/// More than so many are remembered as "all".
const LIMIT: usize = 4096;

/// Whether anything is pending: asked for every row change, where a thread-local variable would cost a call.
static ANY: AtomicBool = AtomicBool::new(false);

/// Whether a role was altered, dropped, or gained or lost another one: asked for every record of the log.
static ROLES: AtomicBool = AtomicBool::new(false);

thread_local! {
    static PENDING: RefCell<Invalidated> = RefCell::default();
    static REGISTERED: RefCell<bool> = const { RefCell::new(false) };
}

/// From now on invalidations are noted. A callback can't be taken back, so it is registered once per process.
pub(crate) fn listen() {
    REGISTERED.with_borrow_mut(|registered| {
        if !*registered {
            // SAFETY: the functions stay where they are for the life of the process: libraries are never unloaded.
            unsafe {
                let nothing = pg_sys::Datum::from(0usize);
                pg_sys::CacheRegisterRelcacheCallback(Some(note), nothing);
                pg_sys::CacheRegisterSyscacheCallback(
                    pg_sys::SysCacheIdentifier::ENUMOID as std::ffi::c_int,
                    Some(note_enum),
                    nothing,
                );
                for cache in [pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM, pg_sys::SysCacheIdentifier::AUTHOID]
                {
                    let cache = cache as std::ffi::c_int;
                    pg_sys::CacheRegisterSyscacheCallback(cache, Some(note_roles), nothing);
                }
                pg_sys::CacheRegisterSyscacheCallback(
                    pg_sys::SysCacheIdentifier::NAMESPACEOID as std::ffi::c_int,
                    Some(note_rights),
                    nothing,
                );
            }
            *registered = true;
        }
    });
    ANY.store(false, Ordering::Relaxed);
    ROLES.store(false, Ordering::Relaxed);
    PENDING.take();
}

/// Whether any role has changed since `roles_looked_at`.
pub(super) fn roles_changed() -> bool {
    ROLES.load(Ordering::Relaxed)
}

/// What roles may do is known again.
pub(super) fn roles_looked_at() {
    ROLES.store(false, Ordering::Relaxed);
}

/// What was invalidated since the last call, if anything.
pub(crate) fn take() -> Option<Invalidated> {
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    ANY.store(false, Ordering::Relaxed);
    Some(PENDING.take())
}

#[pg_guard]
unsafe extern "C-unwind" fn note(_argument: pg_sys::Datum, relation: Oid) {
    ANY.store(true, Ordering::Relaxed);
    PENDING.with_borrow_mut(|pending| {
        if relation == Oid::INVALID || pending.relations.len() >= LIMIT {
            pending.all = true;
            pending.relations.clear();
        } else if !pending.all && pending.relations.last() != Some(&relation) {
            pending.relations.push(relation);
        }
    });
}

/// A label of some enum was added or renamed: rows that hold it have another text now. Rare enough to look at everything.
#[pg_guard]
unsafe extern "C-unwind" fn note_enum(_argument: pg_sys::Datum, _cache: std::ffi::c_int, _hash: u32) {
    ANY.store(true, Ordering::Relaxed);
    PENDING.with_borrow_mut(|pending| pending.all = true);
}

/// A role was altered, dropped, or gained or lost another one.
#[pg_guard]
unsafe extern "C-unwind" fn note_roles(_argument: pg_sys::Datum, _cache: std::ffi::c_int, _hash: u32) {
    ANY.store(true, Ordering::Relaxed);
    ROLES.store(true, Ordering::Relaxed);
    PENDING.with_borrow_mut(|pending| pending.all = true);
}

/// A schema was granted: what may be read of tables may be another thing now.
#[pg_guard]
unsafe extern "C-unwind" fn note_rights(_argument: pg_sys::Datum, _cache: std::ffi::c_int, _hash: u32) {
    ANY.store(true, Ordering::Relaxed);
    PENDING.with_borrow_mut(|pending| pending.all = true);
}
