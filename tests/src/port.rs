//! Ports for programs that want to be told theirs.

use anyhow::Result;

use crate::process::ExitedEarly;

/// Free ports are found by asking the system for one; somebody else may take it before the program does, which then ends and is
/// started again with another.
pub(crate) const ATTEMPTS: usize = 5;

/// A loopback port that was free just now.
pub(crate) fn free() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Whether a program ended because its port was taken meanwhile.
pub(crate) fn was_taken(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ExitedEarly>().is_some_and(|ended| ended.output.contains("Address already in use"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;
    use crate::Process;

    /// What a program that ends at once and writes this is mistaken for.
    fn told(words: &str) -> Result<bool> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new("echo");
        command.arg(words);
        let mut process = Process::spawn("echo", command, &dir.path().join("log"))?;
        loop {
            if let Err(ended) = process.must_be_alive() {
                return Ok(was_taken(&ended));
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_port_that_was_taken_is_told_from_other_ends() -> Result<()> {
        let taken = TcpListener::bind(("127.0.0.1", free()?))?;
        let error = TcpListener::bind(taken.local_addr()?).expect_err("it is taken");
        assert!(told(&error.to_string())?);
        assert!(!told("no such edge")?);
        Ok(())
    }
}
