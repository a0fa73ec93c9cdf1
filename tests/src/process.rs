//! A child process with its output in a file, ended when dropped.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::eventually;

/// How many of the last bytes of a log are printed.
const TAIL: usize = 16 * 1024;

/// A child process. Standard output and error are appended to its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Sent first when dropped; SIGKILL follows if it did not help.
    farewell: Signal,
}

/// A process that ended before it was ready to work: how, and the end of what it wrote.
#[derive(Debug)]
pub struct ExitedEarly {
    /// What the process is called in messages.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// The last lines it wrote, standard output and error together.
    pub output: String,
}

impl std::fmt::Display for ExitedEarly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ended early ({}):\n{}", self.name, self.status, self.output)
    }
}

impl std::error::Error for ExitedEarly {}

impl Process {
    /// Starts `command` with no standard input and its output appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        Self::spawn_with_farewell(name, &mut command, log, Signal::KILL)
    }

    pub(crate) fn spawn_with_farewell(
        name: &str,
        command: &mut Command,
        log: &Path,
        farewell: Signal,
    ) -> Result<Self> {
        let out = open_log(log)?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), farewell })
    }

    /// The operating system's id of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal; an error if the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("sending {signal:?} to {}", self.name))
    }

    /// From now on no file that it writes to may be longer than this, as on a disk that is full; `None` ends that.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit { current: bytes.or(maximum), maximum };
        prlimit(Some(self.pid()?), Resource::Fsize, limit).context("limiting the length of files")?;
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("a process id is never 0")
    }

    /// How the process ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails with [`ExitedEarly`] if the process has ended.
    pub fn must_be_alive(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => {
                Err(ExitedEarly { name: self.name.clone(), status, output: self.log_tail() }.into())
            }
        }
    }

    /// Waits until it has ended by itself (or by a signal sent before).
    pub async fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let child = std::cell::RefCell::new(&mut self.child);
        eventually(&what, within, || async { Ok(child.borrow_mut().try_wait()?) }).await
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let mut from = text.len().saturating_sub(TAIL);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text[from..].to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}: the end of its log\n{}---", self.name, self.log_tail());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(self.farewell);
            let _ = self.child.wait();
        }
    }
}

/// Appending, so that a restarted process keeps the log of its predecessor.
fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening the log {}", path.display()))
}
