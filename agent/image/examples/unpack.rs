//! How long a layer takes to unpack beside its decompressor alone, for tests/bench: `unpack LAYER.tar.gz ROUNDS [DIR]` prints the
//! milliseconds MIN MEDIAN of each, the decompressor first, interleaved.

use flate2::read::GzDecoder;
use muster_image::{Digest, Store, time_of_unpacking};
use std::{
    env,
    error::Error,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    time::Instant,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [layer, rounds, rest @ ..] = &args[..] else { return Err("expected LAYER.tar.gz ROUNDS [DIR]".into()) };
    let (layer, rounds): (_, usize) = (Path::new(layer), rounds.parse()?);
    let dir = tempfile::tempdir_in(rest.first().map_or("/tmp", String::as_str))?;
    let store = Store::open(&dir.path().join("store"))?;
    let diff_id = diff_id(layer)?;
    let (mut alone, mut unpacked) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        let began = Instant::now();
        io::copy(&mut decompressed(layer)?, &mut io::sink())?;
        alone.push(began.elapsed());
        unpacked.push(time_of_unpacking(&store, layer, &diff_id)?);
    }
    for times in [&mut alone, &mut unpacked] {
        times.sort_unstable();
        println!("{} {}", times[0].as_millis(), times[times.len() / 2].as_millis());
    }
    Ok(())
}

fn decompressed(layer: &Path) -> io::Result<impl Read> {
    Ok(GzDecoder::new(BufReader::with_capacity(1 << 20, File::open(layer)?)))
}

fn diff_id(layer: &Path) -> Result<Digest, Box<dyn Error>> {
    let mut plain = Vec::new();
    decompressed(layer)?.read_to_end(&mut plain)?;
    Ok(Digest::of(&plain))
}
