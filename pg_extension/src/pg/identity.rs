//! Who calls, and acting as somebody else for a while.

use std::ffi::c_int;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::Oid;
use crate::catalog::fail;

/// A role of PostgreSQL's own that may do next to nothing, on every release.
pub(crate) const POWERLESS: Oid = Oid::from_u32(pg_sys::ROLE_PG_CHECKPOINT);

/// The role whose rights apply to the running statement.
pub(crate) fn current_role() -> Oid {
    // SAFETY: reads a variable of the session.
    unsafe { pg_sys::GetUserId() }
}

/// The role that the session belongs to, SET ROLE aside.
pub(crate) fn session_role() -> Oid {
    // SAFETY: reads a variable of the session.
    unsafe { pg_sys::GetSessionUserId() }
}

/// Whether `role` may do what `wanted` may; a superuser may do everything, and only he what nobody was named for.
pub(crate) fn may_act_as(role: Oid, wanted: Option<Oid>) -> bool {
    // SAFETY: catalog lookups inside a transaction; unknown OIDs give false.
    unsafe {
        pg_sys::superuser_arg(role) || wanted.is_some_and(|wanted| pg_sys::has_privs_of_role(role, wanted))
    }
}

/// Whether `role` exists and may replicate: what a walsender was asked when it began.
pub(crate) fn may_replicate(role: Oid) -> bool {
    // SAFETY: a catalog lookup inside a transaction about a role that exists.
    role_exists(role) && unsafe { pg_sys::has_rolreplication(role) }
}

/// Whether there is such a role.
pub(crate) fn role_exists(role: Oid) -> bool {
    // SAFETY: a syscache existence check inside a transaction.
    unsafe {
        pg_sys::SearchSysCacheExists(
            pg_sys::SysCacheIdentifier::AUTHOID as c_int,
            pg_sys::Datum::from(role),
            pg_sys::Datum::from(0usize),
            pg_sys::Datum::from(0usize),
            pg_sys::Datum::from(0usize),
        )
    }
}

/// While it lives, statements run as another role in a security-restricted operation. An ERROR restores by itself.
pub(crate) struct Acting {
    role: Oid,
    context: c_int,
    /// The nest level of the settings, where those of now must come back.
    settings: Option<c_int>,
}

impl Acting {
    /// Acts as `role` until dropped. Settings that its code changes meanwhile, for the session too, come back as well: with a search path
    /// of its own it would choose what the caller runs next.
    pub(crate) fn as_role(role: Oid) -> Self {
        let mut saved = Acting { role: Oid::INVALID, context: 0, settings: None };
        // SAFETY: both pointers are to locals; role and settings are set back by Drop, or by the end of the (sub)transaction.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&raw mut saved.role, &raw mut saved.context);
            saved.settings = Some(pg_sys::NewGUCNestLevel());
            let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
            pg_sys::SetUserIdAndSecContext(role, saved.context | restricted as c_int);
        }
        saved
    }

    /// Acts as the owner of a shard, for whoever may do so anyway: reading a constant runs code of its type's maker.
    pub(crate) fn as_definer(role: Oid) -> Self {
        if !role_exists(role) {
            fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                "the role that defined the shard is gone",
                "Redefine the shard with or_replace => true, or drop it.",
            );
        }
        if !may_act_as(current_role(), Some(role)) {
            fail(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "definitions of another role can't be compiled",
                "Only a member of that role can.",
            );
        }
        Self::as_role(role)
    }

    /// Acts as `role`, but without the restrictions: for statements of our own that change roles' rights.
    pub(crate) fn as_owner(role: Oid) -> Self {
        let mut saved = Acting { role: Oid::INVALID, context: 0, settings: None };
        // SAFETY: as above.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&raw mut saved.role, &raw mut saved.context);
            let changed = pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int;
            pg_sys::SetUserIdAndSecContext(role, saved.context | changed);
        }
        saved
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        // SAFETY: sets back what `as_role` read. After an ERROR the end of the (sub)transaction sets the settings back.
        unsafe {
            if let Some(level) = self.settings.filter(|_| !std::thread::panicking()) {
                pg_sys::AtEOXact_GUC(false, level);
            }
            pg_sys::SetUserIdAndSecContext(self.role, self.context);
        }
    }
}
