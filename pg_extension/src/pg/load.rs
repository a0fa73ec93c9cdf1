//! What happens once when a server process loads the library.

use pgrx::pg_guard;

/// Called by the server after loading.
#[pg_guard]
unsafe extern "C-unwind" fn _PG_init() {
    // pgrx adds a backtrace to every ERROR's DETAIL if the server's environment asks Rust for backtraces. Clients have no use for
    // it, and capturing one costs more than a failed predicate should.
    // SAFETY: a server process has one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
}
