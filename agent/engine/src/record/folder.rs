//! A folder with a folder for each object, which holds its record: all of them are read when the engine opens.

use super::{ReadError, durable};
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
    /// Reads the record of a folder; `None` when there is none.
    ///
    /// # Errors
    /// [`ReadError`].
    fn read(folder: &Path) -> Result<Option<Self>, ReadError>;
}

/// What was found in the folder of one object.
pub(crate) struct Read<T> {
    pub path: PathBuf,
    pub name: String,
    pub record: Result<Option<T>, ReadError>,
}

/// Sweeps and reads every folder below `folder`, which exists, in the order of their names. Blocks on the disk.
///
/// # Errors
/// When a folder cannot be listed or swept. A record that cannot be read is one of the answers.
pub(crate) fn read_all<T: InFolder>(folder: &Path) -> Result<Vec<Read<T>>, durable::Error> {
    on_each(list(folder)?, |(name, path)| {
        durable::sweep(&path)?;
        Ok(Read { record: T::read(&path), name, path })
    })
    .into_iter()
    .collect()
}

/// The names in a folder, sorted, with their paths.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, durable::Error> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(durable::Error::at("read", folder))?;
    let mut listed: Vec<_> =
        entries.into_iter().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect();
    listed.sort_unstable();
    Ok(listed)
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
