//! The committed objects are what their sources say: building them again gives the same bytes, in any folder.

use std::{fs, path::Path, process::Command};

fn copy_sources(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|e| e != "o") {
            fs::copy(&path, to.join(path.file_name().expect("a file"))).expect("copied");
        }
    }
}

#[test]
fn building_the_kernel_programs_again_in_another_folder_gives_the_committed_bytes() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    copy_sources(&sources, elsewhere.path());
    let build = Command::new(elsewhere.path().join("build")).output().expect("bpf/build starts");
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    for name in ["packet.bpf.o", "socket.bpf.o"] {
        let committed = fs::read(sources.join(name)).expect("the committed object");
        let built = fs::read(elsewhere.path().join(name)).expect("the object built now");
        assert!(committed == built, "bpf/{name} is not what its sources give: run bpf/build");
        let folder = elsewhere.path().as_os_str().as_encoded_bytes();
        assert!(!built.windows(folder.len()).any(|w| w == folder), "bpf/{name} tells where it was built");
    }
}
