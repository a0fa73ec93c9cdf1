//! How the workspace is built: as everybody does, or for packages that are given away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A way of building.
pub(crate) struct Build {
    workspace: PathBuf,
    target: PathBuf,
    /// What must not be in a binary, each with what stands for it.
    hidden: Vec<(PathBuf, &'static str)>,
}

impl Build {
    /// In the workspace's own target folder.
    pub(crate) fn usual() -> Result<Self> {
        let workspace = workspace()?;
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        Ok(Self { workspace, target, hidden: Vec::new() })
    }

    /// With binaries that name no folder of this machine: panics tell where in the source they happened. In a target folder of
    /// its own, for the other flags would make everything anew each time.
    pub(crate) fn to_give_away(target: PathBuf) -> Result<Self> {
        let workspace = workspace()?;
        let home = |variable: &str, folder: &str| {
            let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
            std::env::var_os(variable).map_or_else(|| home.join(folder), PathBuf::from)
        };
        // Of several that fit a path, the compiler takes the last.
        let hidden = vec![
            (home("RUSTUP_HOME", ".rustup"), "rustup"),
            (home("CARGO_HOME", ".cargo"), "cargo"),
            (workspace.clone(), "foreshard"),
            (target.clone(), "target"),
        ];
        Ok(Self { workspace, target, hidden })
    }

    /// Cargo in the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.workspace).env("CARGO_TARGET_DIR", &self.target);
        if !self.hidden.is_empty() {
            let flags = |flag: &str, between: &str| {
                let each = self.hidden.iter().map(|(from, to)| format!("{flag}={}={to}", from.display()));
                each.collect::<Vec<_>>().join(between)
            };
            cargo.env("CARGO_ENCODED_RUSTFLAGS", flags("--remap-path-prefix", "\u{1f}"));
            // Libraries in C tell in their errors where they come from, too.
            for compiler in ["CFLAGS", "CXXFLAGS"] {
                cargo.env(compiler, flags("-ffile-prefix-map", " "));
            }
        }
        cargo
    }

    /// What cargo makes of a profile.
    pub(crate) fn made(&self, release: bool) -> PathBuf {
        self.target.join(if release { "release" } else { "debug" })
    }

    /// Refuses a binary that names a folder that this build hides. What only a debugger reads has to be gone: the C compiler
    /// notes its folders there.
    pub(crate) fn check(&self, binary: &Path) -> Result<()> {
        let content = fs::read(binary).with_context(|| binary.display().to_string())?;
        for (folder, _) in &self.hidden {
            let folder = folder.to_string_lossy();
            let found = content.windows(folder.len()).any(|part| part == folder.as_bytes());
            ensure!(!found, "{} names a folder of this machine: {folder}", binary.display());
        }
        Ok(())
    }
}

/// The root of the source.
pub(crate) fn workspace() -> Result<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(above.context("xtask lies inside the workspace")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_names_a_hidden_folder_is_refused() {
        let build = Build::to_give_away(PathBuf::from("/builds/of/somebody")).unwrap();
        let here = std::env::current_exe().unwrap();
        assert!(build.check(&here).is_err(), "a test names its own source folder");
        assert!(Build::usual().unwrap().check(&here).is_ok(), "the usual build hides nothing");
    }
}
