//! A Debian package in the making: a tree of files, then what dpkg wants to know of it.
//!
//! `dpkg-deb` writes the archive. A packaging framework would add little: debhelper runs a package's own build system, cargo-deb
//! packages the files of one crate, and what is hard here (one library for each major of PostgreSQL, SQL put together out of
//! several folders) `xtask install` does already.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What is said of a package in its control file.
pub(crate) struct About {
    pub(crate) name: String,
    /// As in a control file: `a (>= 1), b`.
    pub(crate) depends: String,
    pub(crate) summary: String,
    /// Lines of at most 79 characters.
    pub(crate) description: &'static str,
}

/// How hard dpkg-deb compresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// For packages that are given away.
    Best,
    /// For packages that a test looks into.
    Quick,
}

/// The revision of the packaging, behind the version of what is packaged.
const REVISION: &str = "1";

pub(crate) struct Tree {
    root: PathBuf,
    conffiles: Vec<String>,
}

impl Tree {
    /// An empty tree in a folder that is made anew.
    pub(crate) fn at(root: PathBuf) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
        }
        Ok(Self { root, conffiles: Vec::new() })
    }

    /// Where a file of the package lies until it is packed.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file, by its path on the machine that it is installed on.
    pub(crate) fn file(&self, path: &str, mode: u32, content: &[u8]) -> Result<PathBuf> {
        let target = self.path(path);
        let folder = target.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder)?;
        for folder in folder.ancestors().take_while(|folder| folder.starts_with(&self.root)) {
            fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        }
        fs::write(&target, content).with_context(|| target.display().to_string())?;
        fs::set_permissions(&target, Permissions::from_mode(mode))?;
        Ok(target)
    }

    /// A file that the administrator changes and upgrades leave alone.
    pub(crate) fn conffile(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.conffiles.push(path.to_owned());
        self.file(path, mode, content).map(drop)
    }

    /// A script that dpkg runs: `postinst`, `prerm`, `postrm`.
    pub(crate) fn script(&self, name: &str, content: &[u8]) -> Result<()> {
        self.file(&format!("DEBIAN/{name}"), 0o755, content).map(drop)
    }

    /// A program or library, without the symbols that only a debugger wants.
    pub(crate) fn binary(&self, path: &str, mode: u32, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        let target = self.file(path, mode, &content)?;
        run(Command::new("strip").args(["--strip-unneeded", "--remove-section=.comment"]).arg(&target))?;
        Ok(())
    }

    /// Licence and history, as every package has them.
    pub(crate) fn documents(&self, about: &About, workspace: &Path) -> Result<()> {
        let folder = format!("/usr/share/doc/{}", about.name);
        self.file(&format!("{folder}/copyright"), 0o644, &fs::read(workspace.join("packaging/copyright"))?)?;
        let changes =
            self.file(&format!("{folder}/changelog"), 0o644, &fs::read(workspace.join("CHANGELOG.md"))?)?;
        let entry = format!(
            "{} ({}) unstable; urgency=medium\n\n  * What changed is told in changelog.gz.\n\n -- {}  {}\n",
            about.name,
            version(),
            maintainer(),
            run(Command::new("date").args(["-R", "-u", "-d", &format!("@{}", made_at()?)]))?.trim()
        );
        let packaged = self.file(&format!("{folder}/changelog.Debian"), 0o644, entry.as_bytes())?;
        run(Command::new("gzip").args(["-9", "-n"]).args([changes, packaged]))?;
        Ok(())
    }

    /// Writes the package into `out` and gives its path.
    pub(crate) fn write(&self, about: &About, out: &Path, compression: Compression) -> Result<PathBuf> {
        let mut sums = String::new();
        let mut size = 0;
        for file in files_below(&self.root)? {
            let inside = file.strip_prefix(&self.root)?;
            size += fs::metadata(&file)?.len().div_ceil(1024);
            if !inside.starts_with("DEBIAN") {
                let sum = run(Command::new("md5sum").arg("--").arg(&file))?;
                let sum = sum.split_whitespace().next().context("md5sum gives a sum")?;
                sums.push_str(&format!("{sum}  {}\n", inside.display()));
            }
        }
        self.file("DEBIAN/md5sums", 0o644, sums.as_bytes())?;
        if !self.conffiles.is_empty() {
            self.file("DEBIAN/conffiles", 0o644, (self.conffiles.join("\n") + "\n").as_bytes())?;
        }
        let architecture = run(Command::new("dpkg").arg("--print-architecture"))?;
        let architecture = architecture.trim();
        let control = format!(
            "Package: {}\nVersion: {}\nArchitecture: {architecture}\nMaintainer: {}\nInstalled-Size: {size}\nDepends: {}\nSection: database\n\
             Priority: optional\nDescription: {}\n{}",
            about.name,
            version(),
            maintainer(),
            about.depends,
            about.summary,
            about.description.lines().map(|line| format!(" {line}\n")).collect::<String>()
        );
        self.file("DEBIAN/control", 0o644, control.as_bytes())?;

        fs::create_dir_all(out)?;
        let package = out.join(format!("{}_{}_{architecture}.deb", about.name, version()));
        let mut deb = Command::new("dpkg-deb");
        deb.env("SOURCE_DATE_EPOCH", made_at()?).arg("--root-owner-group");
        deb.args(match compression {
            Compression::Best => ["-Zxz", "-z6"],
            Compression::Quick => ["-Zgzip", "-z1"],
        });
        run(deb.arg("--build").arg(&self.root).arg(&package))?;
        Ok(package)
    }

    /// Packages that a binary of this tree needs for the shared libraries that it is linked with.
    pub(crate) fn needs(&self, path: &str) -> Result<String> {
        // dpkg-shlibdeps wants to stand in a source package.
        let source = self.root.with_extension("source");
        fs::create_dir_all(source.join("debian"))?;
        fs::write(
            source.join("debian/control"),
            "Source: foreshard\n\nPackage: foreshard\nArchitecture: any\n",
        )?;
        let mut needs = Command::new("dpkg-shlibdeps");
        // PostgreSQL's own functions are in no library: the server that loads the extension has them.
        needs.current_dir(&source).args(["-O", "--ignore-missing-info", "--warnings=0"]);
        let said = run(needs.arg(format!("-e{}", self.path(path).display())))?;
        fs::remove_dir_all(&source)?;
        let said = said.trim().strip_prefix("shlibs:Depends=").unwrap_or_default();
        ensure!(!said.is_empty(), "dpkg-shlibdeps names no library that {path} needs");
        Ok(said.to_owned())
    }
}

/// Version of the packages: that of the workspace, and the revision.
fn version() -> String {
    format!("{}-{REVISION}", env!("CARGO_PKG_VERSION"))
}

/// Who packages, by the variables that Debian's own tools go by.
fn maintainer() -> String {
    let or = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    format!(
        "{} <{}>",
        or("DEBFULLNAME", "The authors of foreshard"),
        or("DEBEMAIL", "packages@foreshard.invalid")
    )
}

/// The moment that files and entries carry: the last commit's, so that the same source gives the same package.
fn made_at() -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let committed =
        run(Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "log", "-1", "--format=%ct"]));
    let moment = committed.or_else(|_| run(Command::new("date").arg("+%s")))?;
    Ok(moment.trim().to_owned())
}

/// Standard output of a program that must succeed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Every file below a folder, in order.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
