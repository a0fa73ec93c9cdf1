//! Keeps what the process holds in memory, rows, keys and passwords, out of files that others may come to read.

use rustix::io;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core file is written of this process from now on, whatever it dies of, and no other process of the same user may read its memory. Root
/// still may, with a debugger.
///
/// # Errors
/// Where the kernel refuses, which it does in no known configuration.
pub(crate) fn forbid() -> io::Result<()> {
    // The limit alone does not bind a program that cores are piped to; not being dumpable does.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn the_kernel_knows() {
        forbid().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    }
}
