//! The init of `--init`: pid 1 of a container whose command is not made to be one. Starts the command, passes signals on to it,
//! reaps whatever is orphaned, ends as the command ends.

use std::ffi::CString;
use std::io;
use std::mem;
use std::process::ExitCode;

/// Exit codes of a command that cannot be run, as in Docker and the shell.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs `-- COMMAND ARGS`, to its end.
pub fn run(words: Vec<String>) -> ExitCode {
    let command: Vec<CString> = words
        .iter()
        .skip(usize::from(words.first().is_some_and(|word| word == "--")))
        .filter_map(|word| CString::new(word.as_str()).ok())
        .collect();
    if command.is_empty() {
        eprintln!("docker-init: no command");
        return ExitCode::from(NOT_FOUND);
    }
    let (all, before) = block_signals();
    // SAFETY: one thread, so the child has all of the process.
    match unsafe { libc::fork() } {
        -1 => {
            eprintln!("docker-init: fork: {}", io::Error::last_os_error());
            ExitCode::FAILURE
        }
        0 => become_command(&command, &before),
        child => ExitCode::from(look_after(child, &all)),
    }
}

/// Blocks every signal, so that they are taken one by one with sigwait; answers with all of them and the mask before.
fn block_signals() -> (libc::sigset_t, libc::sigset_t) {
    // SAFETY: both sets are plain data, filled by the calls that are given them.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&mut all);
        // Signals of a fault in this program itself cannot be waited for.
        for signal in
            [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS]
        {
            libc::sigdelset(&mut all, signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &all, &mut before);
        (all, before)
    }
}

/// The child: leads the foreground group of the terminal, if there is one, and becomes the command.
fn become_command(command: &[CString], before: &libc::sigset_t) -> ExitCode {
    let mut pointers: Vec<*const libc::c_char> = command.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: the pointers are of strings that live until execvp, the list ends with null; SIGTTOU is blocked, so tcsetpgrp from
    // the background group does not stop us.
    unsafe {
        libc::setpgid(0, 0);
        libc::tcsetpgrp(0, libc::getpgrp());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, before, std::ptr::null_mut());
        libc::execvp(pointers[0], pointers.as_ptr());
    }
    let error = io::Error::last_os_error();
    eprintln!("docker-init: {}: {error}", command[0].to_string_lossy());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

/// The parent: signals in, children out, until the command has ended.
fn look_after(child: libc::pid_t, all: &libc::sigset_t) -> u8 {
    loop {
        // SAFETY: the set is valid; no information beyond the number is asked for.
        let signal = unsafe { libc::sigwaitinfo(all, std::ptr::null_mut()) };
        if signal == libc::SIGCHLD {
            if let Some(code) = reap(child) {
                return code;
            }
        } else if signal > 0 {
            // SAFETY: no memory is involved; the child has not been reaped.
            unsafe { libc::kill(child, signal) };
        }
    }
}

/// Reaps everything that has ended; the command's exit code when it was among them.
fn reap(child: libc::pid_t) -> Option<u8> {
    let mut code = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for writing.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return code;
        }
        if pid == child {
            let ended =
                if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
            code = Some(ended as u8);
        }
    }
}
