//! What is said of the volume that a path lies on.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// Whether the path is on a network file system.
pub(crate) fn is_networked(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| is_network(stat.f_type))
}

/// NFS (EFS too), CIFS and SMB, Ceph, Lustre, GPFS, 9p, FUSE: by their numbers in `statfs`.
fn is_network(kind: rustix::fs::FsWord) -> bool {
    const KINDS: [u32; 8] =
        [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400, 0x0bd0_0bd0, 0x4750_4653, 0x0102_1997, 0x6573_5546];
    KINDS.contains(&(kind as u32))
}

/// Says that there is no more room for the path, where this error says so, and what to do.
pub(crate) fn full(path: &Path, error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::StorageFull => Some(format!("{}: free space on it", says(path, "is full"))),
        // What is free on the volume says nothing about it.
        io::ErrorKind::QuotaExceeded => {
            let volume = mount_of(path).map_or(path, |(mount, _)| mount).display();
            Some(format!("a quota on the volume at {volume} is used up: raise the quota, free space"))
        }
        _ => None,
    }
}

/// Where the volume of the path is mounted, and what is there of the path.
fn mount_of(path: &Path) -> Option<(&Path, &Path)> {
    let mut here = path.ancestors().filter_map(|dir| Some((dir, fs::metadata(dir).ok()?.dev())));
    let (nearest, dev) = here.next()?;
    let mount = here.take_while(|(_, other)| *other == dev).last().map_or(nearest, |(dir, _)| dir);
    Some((mount, nearest))
}

/// Says this of the volume of the path, with what is left of it.
pub(crate) fn says(path: &Path, what: &str) -> String {
    let Some((mount, nearest)) = mount_of(path) else {
        return format!("the volume of {} {what}", path.display());
    };
    let mount = mount.display();
    let Ok(stat) = rustix::fs::statvfs(nearest) else { return format!("the volume at {mount} {what}") };
    let size = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let (free, all) = (size(stat.f_bavail), size(stat.f_blocks));
    if stat.f_files > 0 && stat.f_favail == 0 {
        return format!("the volume at {mount} {what} (it takes no more files: no inode is free)");
    }
    let (unit, name) = if all < 10 << 30 { (1 << 20, "MB") } else { (1 << 30, "GB") };
    format!("the volume at {mount} {what} ({} of {} {name} free)", free / unit, all / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        let word = |kind: u32| kind as rustix::fs::FsWord;
        assert!(is_network(word(0x6969)) && is_network(word(0xff53_4d42)));
        assert!(!is_network(word(0x0102_1994)) && !is_network(word(0xef53)), "tmpfs, ext4");
    }
}
