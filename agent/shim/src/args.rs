//! The command line of the shim: how the daemon tells it what to hold.

use std::path::PathBuf;

/// What the shim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A container: creates it at once.
    Container,
    /// An exec: waits for `START`.
    Exec,
}

/// All flags.
#[derive(Debug)]
pub struct Options {
    pub mode: Mode,
    /// `--dir`: run folder of the process: socket, pid file, runtime's log.
    pub dir: PathBuf,
    /// `--id`: the container.
    pub id: String,
    /// `--runtime`: the OCI runtime binary.
    pub runtime: PathBuf,
    /// `--root`: its state folder.
    pub root: PathBuf,
    /// `--bundle` (container).
    pub bundle: PathBuf,
    /// `--process` (exec): file with the OCI process.
    pub process: PathBuf,
    /// `--exit-file`: where the exit is recorded.
    pub exit_file: PathBuf,
    /// `--tty`.
    pub tty: bool,
    /// `--stdin`: keep standard input open.
    pub stdin: bool,
    /// `--size WxH`: first size of the terminal.
    pub size: Option<(u16, u16)>,
    /// `--log-path`; none for no log.
    pub log_path: Option<PathBuf>,
    /// `--log-max-size`: bytes; none for no bound.
    pub log_max_size: Option<u64>,
    /// `--log-max-file`.
    pub log_max_file: u32,
    /// `--log-compress`: what was rotated away.
    pub log_compress: bool,
    /// `--oom-file`: has a line `oom_kill N`.
    pub oom_file: Option<PathBuf>,
    /// `--cgroup` (repeated): `cgroup.procs` files to move into.
    pub cgroups: Vec<PathBuf>,
    /// `--stall-ms`: after how long without progress a client that does not read is cut off.
    pub stall_ms: u32,
}

/// Reads the words after the program's name.
pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mode = match words.next().as_deref() {
        Some("container") => Mode::Container,
        Some("exec") => Mode::Exec,
        _ => return Err("usage: muster-shim container|exec FLAGS, or muster-shim init -- COMMAND".into()),
    };
    let mut options = Options::empty(mode);
    while let Some(flag) = words.next() {
        match flag.as_str() {
            "--tty" => options.tty = true,
            "--stdin" => options.stdin = true,
            "--log-compress" => options.log_compress = true,
            _ => {
                let value = words.next().ok_or_else(|| format!("{flag}: needs a value"))?;
                options.set(&flag, value)?;
            }
        }
    }
    let needed = [("--dir", &options.dir), ("--runtime", &options.runtime), ("--exit-file", &options.exit_file)];
    match needed.iter().find(|(_, path)| !path.is_absolute()) {
        Some((flag, path)) => Err(format!("{flag}: {path:?} is not an absolute path")),
        None => Ok(options),
    }
}

impl Options {
    fn empty(mode: Mode) -> Options {
        Options {
            mode,
            dir: PathBuf::new(),
            id: String::new(),
            runtime: PathBuf::new(),
            root: PathBuf::new(),
            bundle: PathBuf::new(),
            process: PathBuf::new(),
            exit_file: PathBuf::new(),
            tty: false,
            stdin: false,
            size: None,
            log_path: None,
            log_max_size: None,
            log_max_file: 1,
            log_compress: false,
            oom_file: None,
            cgroups: Vec::new(),
            stall_ms: 10_000,
        }
    }

    fn set(&mut self, flag: &str, value: String) -> Result<(), String> {
        let invalid = || format!("{flag}: invalid value {value:?}");
        match flag {
            "--dir" => self.dir = value.into(),
            "--id" => self.id = value,
            "--runtime" => self.runtime = value.into(),
            "--root" => self.root = value.into(),
            "--bundle" => self.bundle = value.into(),
            "--process" => self.process = value.into(),
            "--exit-file" => self.exit_file = value.into(),
            "--log-path" => self.log_path = Some(value.into()),
            "--oom-file" => self.oom_file = Some(value.into()),
            "--cgroup" => self.cgroups.push(value.into()),
            "--log-max-size" => self.log_max_size = Some(value.parse().map_err(|_| invalid())?),
            "--log-max-file" => self.log_max_file = value.parse().map_err(|_| invalid())?,
            "--stall-ms" => self.stall_ms = value.parse().map_err(|_| invalid())?,
            "--size" => {
                let (width, height) = value.split_once('x').ok_or_else(invalid)?;
                self.size = Some((width.parse().map_err(|_| invalid())?, height.parse().map_err(|_| invalid())?));
            }
            _ => return Err(format!("unknown flag {flag}")),
        }
        Ok(())
    }
}
