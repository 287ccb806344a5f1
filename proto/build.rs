//! Compiles `muster.proto` with protox (pure Rust): no protoc is needed to build Muster.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=muster.proto");
    let descriptors = protox::compile(["muster.proto"], ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
