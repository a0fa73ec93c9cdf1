//! Who calls, and acting as somebody else for a while.

use std::ffi::c_int;

use pgrx::pg_sys;

use super::Oid;

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

/// The name of a role that exists.
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
}

impl Acting {
    /// Acts as `role` until dropped.
    pub(crate) fn as_role(role: Oid) -> Self {
        let mut saved = Acting { role: Oid::INVALID, context: 0 };
        // SAFETY: both pointers are to locals; the role is set back by Drop, or by the end of the transaction.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&raw mut saved.role, &raw mut saved.context);
            let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
            pg_sys::SetUserIdAndSecContext(role, saved.context | restricted as c_int);
        }
        saved
    }

    /// Acts as `role`, but without the restrictions: for statements of our own that change roles' rights.
    pub(crate) fn as_owner(role: Oid) -> Self {
        let mut saved = Acting { role: Oid::INVALID, context: 0 };
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
        // SAFETY: sets back what `as_role` read.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.context) }
    }
}
