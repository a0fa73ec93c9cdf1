//! The operating system account that servers run as: PostgreSQL refuses to run as root.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// An unprivileged account to switch to, or none when the process already is unprivileged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account(Option<(u32, u32)>);

impl Account {
    /// For root: the account that Debian's PostgreSQL package makes, or `nobody`. For anybody else: no change.
    pub(crate) fn unprivileged() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let ids = |name: &str| {
            let fields: Vec<&str> =
                passwd.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
            Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
        };
        let found = ids("postgres").or_else(|| ids("nobody"));
        Ok(Self(Some(
            found
                .context("running as root, and there is no account postgres or nobody to run a server as")?,
        )))
    }

    /// A command that will run as this account.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
        // A server must not inherit a working directory that its account may not read.
        command.current_dir("/");
        command
    }

    /// Hands a file or directory to this account.
    pub(crate) fn own(self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.0 {
            chown(path, Some(uid), Some(gid))
                .with_context(|| format!("giving {} to the server's account", path.display()))?;
        }
        Ok(())
    }

    /// Whether this account can reach `path`: as another account than our own, every directory above must be open to all.
    pub(crate) fn can_reach(self, path: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt;
        self.0.is_none()
            || path
                .ancestors()
                .filter(|dir| dir.exists())
                .all(|dir| dir.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o005 == 0o005))
    }
}
