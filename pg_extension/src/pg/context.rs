//! Memory contexts that Rust values own.

use pgrx::pg_sys;

/// A memory context, deleted with everything in it when this value is dropped.
///
/// It is a child of `TopMemoryContext`, not of the decoding context: its owner may be dropped while that one is being
/// deleted, and must not find its own context gone already.
pub(crate) struct Context(pg_sys::MemoryContext);

impl Context {
    /// An empty one; `name` shows up in PostgreSQL's memory reports.
    pub(crate) fn new(name: &'static std::ffi::CStr) -> Self {
        // SAFETY: TopMemoryContext lives as long as the process, the name is static.
        Context(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                name.as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// Runs `work` with this context as the current one. What `work` keeps must not point into it beyond `reset`.
    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let _back = Switched::to(self.0);
        work()
    }

    /// For calls that take a context.
    pub(super) fn raw(&self) -> pg_sys::MemoryContext {
        self.0
    }

    /// Frees everything in it.
    pub(crate) fn reset(&self) {
        // SAFETY: the context is ours and alive.
        unsafe { pg_sys::MemoryContextReset(self.0) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: created by `new`, deleted once.
        unsafe { pg_sys::MemoryContextDelete(self.0) }
    }
}

/// Another current memory context until dropped.
pub(super) struct Switched(pg_sys::MemoryContext);

impl Switched {
    pub(super) fn to(context: pg_sys::MemoryContext) -> Self {
        // SAFETY: a plain variable of PostgreSQL; `context` is alive by contract of the callers in this module tree.
        unsafe {
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = context;
            Switched(before)
        }
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        // SAFETY: sets back what `to` found.
        unsafe { pg_sys::CurrentMemoryContext = self.0 }
    }
}
