//! A pod's volumes as a kubelet makes them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::manifest::{Manifest, VolumeKind};

/// Where each volume of one pod is on this machine.
pub(super) struct Volumes {
    dir: PathBuf,
    group: Option<u32>,
}

impl Volumes {
    /// Makes all of them.
    pub(super) fn make(dir: &Path, manifest: &Manifest) -> Self {
        let spec = &manifest.pod.spec;
        let volumes = Self { dir: dir.to_owned(), group: spec.security_context.fs_group };
        for volume in &spec.volumes {
            let place = volumes.of(&volume.name);
            match &volume.kind {
                VolumeKind::EmptyDir(_) => volumes.directory(&place),
                VolumeKind::PersistentVolumeClaim { claim_name } => {
                    let claim = volumes.claim(claim_name);
                    match manifest.claims.get(claim_name) {
                        Some(shared) => symlink(shared, &claim).expect("a shared claim's link"),
                        None => volumes.directory(&claim),
                    }
                    symlink(&claim, &place).expect("a claim's link");
                }
                VolumeKind::ConfigMap(named) => {
                    let data = manifest.config_maps.get(&named.name);
                    assert!(data.is_some() || named.optional, "no ConfigMap {}", named.name);
                    volumes.directory(&place);
                    volumes.swap(&place, data.unwrap_or(&BTreeMap::new()));
                    for file in
                        data.iter().flat_map(|data| data.keys()).filter(|_| named.default_mode.is_some())
                    {
                        fs::set_permissions(place.join(file), fs::Permissions::from_mode(0o755))
                            .expect("its mode");
                    }
                }
                VolumeKind::DownwardAPI { items } => {
                    volumes.directory(&place);
                    let files =
                        items.iter().map(|item| (item.path.clone(), manifest.pod.says(&item.field_ref)));
                    volumes.swap(&place, &files.collect());
                }
            }
        }
        volumes
    }

    /// A volume's directory, by its name in the pod.
    pub(super) fn of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A claim's directory.
    pub(super) fn claim(&self, name: &str) -> PathBuf {
        self.dir.join(format!("claim-{name}"))
    }

    fn directory(&self, place: &Path) {
        fs::create_dir_all(place).expect("a volume");
        chown(place, None, self.group).expect("its group");
        let mode = if self.group.is_some() { 0o2777 } else { 0o777 };
        fs::set_permissions(place, fs::Permissions::from_mode(mode)).expect("its mode");
    }

    /// A new state of all files at once: a new directory, and `..data` renamed over the old one.
    pub(super) fn swap(&self, place: &Path, files: &BTreeMap<String, String>) {
        static TIMES: AtomicU32 = AtomicU32::new(0);
        let state = format!("..2026_11_21_10_00_00.{:09}", TIMES.fetch_add(1, Ordering::Relaxed));
        let before = fs::read_link(place.join("..data")).ok();
        self.directory(&place.join(&state));
        for (name, text) in files {
            let file = place.join(&state).join(name);
            fs::write(&file, text).expect("a file of the volume");
            chown(&file, None, self.group).expect("its group");
        }
        symlink(&state, place.join("..data_tmp")).expect("the new state's link");
        fs::rename(place.join("..data_tmp"), place.join("..data")).expect("the new state");
        for name in files.keys().filter(|name| !place.join(name).is_symlink()) {
            symlink(Path::new("..data").join(name), place.join(name)).expect("a file's link");
        }
        if let Some(before) = before {
            fs::remove_dir_all(place.join(before)).expect("the old state goes");
        }
    }
}
