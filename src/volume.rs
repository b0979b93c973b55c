//! What is said of the volume that a path lies on.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Says that the volume of the path is full, and what is left of it.
pub fn full(path: &Path) -> String {
    says(path, "is full")
}

/// Says this of the volume of the path, with what is left of it.
pub fn says(path: &Path, what: &str) -> String {
    let mut here = path.ancestors().filter_map(|dir| Some((dir, fs::metadata(dir).ok()?.dev())));
    let Some((nearest, dev)) = here.next() else {
        return format!("the volume of {} {what}", path.display());
    };
    let mount = here.take_while(|(_, other)| *other == dev).last().map_or(nearest, |(dir, _)| dir).display();
    let Ok(stat) = rustix::fs::statvfs(nearest) else { return format!("the volume at {mount} {what}") };
    let size = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let (free, all) = (size(stat.f_bavail), size(stat.f_blocks));
    if stat.f_files > 0 && stat.f_favail == 0 {
        return format!("the volume at {mount} {what} (it takes no more files: no inode is free)");
    }
    let (unit, name) = if all < 10 << 30 { (1 << 20, "MB") } else { (1 << 30, "GB") };
    format!("the volume at {mount} {what} ({} of {} {name} free)", free / unit, all / unit)
}
