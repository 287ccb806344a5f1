//! A folder with a folder for each object, which holds its record: all of them are read when the engine opens.

use super::{FILE, Print, RECENT, ReadError, durable};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

/// Folders that are looked at at the same time, where there are many: the disk answers several questions as fast as one.
const AT_ONCE: usize = 8;
/// Below this many, threads cost more than they bring.
const FEW: usize = 64;

/// A record that has a folder of its own.
pub(crate) trait InFolder: Sized + Send {
    /// Begins the keys of its kind in the index.
    const KIND: u8;

    /// Reads the record of a folder; `None` when there is none.
    ///
    /// # Errors
    /// [`ReadError`].
    fn read(folder: &Path) -> Result<Option<Self>, ReadError>;

    /// What a file with these bytes says, if it can be read.
    fn parse(bytes: &[u8]) -> Option<Self>;

    /// The bytes that [`InFolder::read`] reads the record of a folder from; `None` also where it has to say something of them.
    fn bytes(folder: &Path) -> Option<Vec<u8>> {
        let read = |name: &str| durable::read(&folder.join(name)).ok();
        let bytes = match read(RECENT)? {
            Some(bytes) => bytes,
            None => read(FILE)??,
        };
        Self::parse(&bytes).map(|_| bytes)
    }
}

/// The folder of one object, and what its record's files are like.
pub(crate) struct Seen {
    pub name: String,
    pub path: PathBuf,
    pub print: Option<Print>,
}

/// What was found in it.
pub(crate) struct Read<T> {
    pub path: PathBuf,
    pub name: String,
    pub record: Result<Option<T>, ReadError>,
}

/// Every folder below `folder`, which exists, in the order of their names. Blocks on the disk.
///
/// # Errors
/// When it cannot be listed.
pub(crate) fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, durable::Error> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(durable::Error::at("read", folder))?;
    let mut listed: Vec<_> =
        entries.into_iter().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect();
    listed.sort_unstable();
    Ok(listed)
}

/// As [`list`]; also sweeps each folder, and looks at its files without opening them.
///
/// # Errors
/// When a folder cannot be listed or swept.
pub(crate) fn look(folder: &Path) -> Result<Vec<Seen>, durable::Error> {
    let seen = on_each(list(folder)?, |(name, path)| {
        durable::sweep(&path)?;
        Ok(Seen { print: Print::of(&path), name, path })
    });
    seen.into_iter().collect()
}

/// Reads the records: of those whose bytes are `known` from those, of the others from their files. Answers also with how many
/// the latter were.
pub(crate) fn read<T: InFolder>(seen: Vec<Seen>, known: Vec<Option<Vec<u8>>>) -> (Vec<Read<T>>, usize) {
    let read = on_each(seen.into_iter().zip(known).collect(), |(Seen { name, path, .. }, known)| {
        let known = known.and_then(|bytes| T::parse(&bytes));
        let from_file = known.is_none();
        let record = known.map_or_else(|| T::read(&path), |record| Ok(Some(record)));
        (Read { path, name, record }, from_file)
    });
    let from_files = read.iter().filter(|(_, from_file)| *from_file).count();
    (read.into_iter().map(|(read, _)| read).collect(), from_files)
}

/// Does `work` on every item, several at a time where there are many; the answers are in the order of the items.
fn on_each<I: Send, O: Send>(mut items: Vec<I>, work: impl Fn(I) -> O + Sync) -> Vec<O> {
    if items.len() < FEW {
        return items.into_iter().map(work).collect();
    }
    let share = items.len().div_ceil(AT_ONCE);
    let work = &work;
    thread::scope(|scope| {
        let mut workers = Vec::new();
        while !items.is_empty() {
            let rest = items.split_off(share.min(items.len()));
            let mine = std::mem::replace(&mut items, rest);
            workers.push(scope.spawn(move || mine.into_iter().map(work).collect::<Vec<_>>()));
        }
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_questions_however_many_there_are() {
        for n in [0, 1, FEW - 1, FEW, FEW + 1, 10 * FEW + 3] {
            let doubled: Vec<usize> = on_each((0..n).collect(), |i| i * 2);
            assert_eq!(doubled, (0..n).map(|i| i * 2).collect::<Vec<_>>());
        }
    }
}
