//! Links the shim statically with a plain `cargo build`, on the GNU target as well.
//!
//! It must be static: `--init` binds it into containers whose image has no C library (or another), and a static,
//! non-relocatable program shares all of its clean pages. `crt-static` cannot be set for one crate, so the linker is told
//! directly. rustc asks for the C library in its shared form (`-Bdynamic -lc`); a folder searched first holds linker scripts
//! of those names that lead to the archives. `libgcc_s` has no archive: `libgcc_eh` holds the same unwinder.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// Libraries that the standard library and the crate `libc` ask for, and the archive that serves each.
const ARCHIVES: &[(&str, &str)] = &[
    ("libgcc_s", "libgcc_eh.a"),
    ("libc", "libc.a"),
    ("libm", "libm.a"),
    ("librt", "librt.a"),
    ("libpthread", "libpthread.a"),
    ("libutil", "libutil.a"),
    ("libdl", "libdl.a"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
    let set = |name: &str| env::var(name).unwrap_or_default();
    let already = set("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    if set("CARGO_CFG_TARGET_OS") != "linux" || set("CARGO_CFG_TARGET_ENV") != "gnu" || already {
        return Ok(());
    }
    let folder = PathBuf::from(set("OUT_DIR")).join("static");
    fs::create_dir_all(&folder)?;
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    for (library, archive) in ARCHIVES {
        let output = Command::new(&compiler).arg(format!("-print-file-name={archive}")).output()?;
        let path = String::from_utf8(output.stdout)?;
        let path = path.trim();
        // A compiler that does not find it answers with the bare name.
        if !path.contains('/') {
            return Err(format!("{compiler} has no {archive}: install the C library's development files").into());
        }
        fs::write(folder.join(format!("{library}.a")), format!("INPUT ( {path} )\n"))?;
    }
    println!("cargo:rustc-link-arg-bins=-L{}", folder.display());
    println!("cargo:rustc-link-arg-bins=-static");
    println!("cargo:rustc-link-arg-bins=-no-pie");
    Ok(())
}
