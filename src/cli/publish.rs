//! `pitstop publish DIR --release ID`: packs and uploads.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    time::Instant,
};

use clap::Args;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{
    Console, Exit, Failure,
    console::BETWEEN_LINES,
    sign,
    signing::{Key, Signer},
};
use crate::{
    config::Config,
    core::{Reason, requirement::Requirement},
    releases::{
        Limits,
        layout::Layout,
        one_pass::{Hashed, Pieces},
        pack::{self, Packing},
        unpack::{self, Archive, Unpacked},
        unpack_error::UnpackError,
    },
    revision::ReleaseId,
    store::{
        self, ArchiveKind, Body, Condition, Store, StoreError,
        archive::{self, Published, Unusable},
        dir::hex,
    },
    trust::Role,
};

/// What to publish.
#[derive(Debug, Args)]
pub struct Publish {
    /// The directory whose content is the release.
    #[arg(value_name = "DIR", required_unless_present = "archive", conflicts_with = "archive")]
    pub(crate) dir: Option<PathBuf>,
    /// A ready tar.zst or tar.gz instead of a directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) archive: Option<PathBuf>,
    /// A path in DIR to leave out, with all that is below it; as often as needed. `.git` is never packed.
    #[arg(long, value_name = "PATH", conflicts_with = "archive")]
    pub(crate) exclude: Vec<PathBuf>,
    /// How much zstd works for a smaller archive: 1 (quick) to 19.
    #[arg(long, value_name = "N", default_value_t = pack::LEVEL, conflicts_with = "archive", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: i32,
    /// The id that it gets; an id never changes its bytes.
    #[arg(long, value_name = "ID")]
    pub(crate) release: ReleaseId,
    /// What the image must bring: ruby=3.3, arch=amd64, libc=glibc=2.36, file=/path; by commas.
    #[arg(long, value_name = "LIST", default_value = "")]
    pub(crate) requires: String,
    /// By which key?
    #[command(flatten)]
    pub(crate) key: Key,
}

/// So many pieces of an archive wait to be checked.
const WAITING: usize = 16;
/// What is packed better than this may be more than an agent takes.
const DENSE: u64 = 100;

/// What was published.
#[derive(Debug, Serialize)]
struct Answer {
    release: ReleaseId,
    key: String,
    sha256: String,
    bytes: u64,
    already_published: bool,
    signed: bool,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.already_published { "already published" } else { "published" };
        write!(f, "{how} {} as {} ({} bytes, sha256 {})", self.release, self.key, self.bytes, self.sha256)
    }
}

/// Packs the directory and puts it into the store.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(config: &Config, args: Publish, console: Console) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let release = args.release.clone();
    let signer = args.key.signer(Role::Release, config)?;
    let layout = super::layout(config);
    let requires = known(&args.requires)?;
    let temporary = match args.archive {
        None => Some(store.temporary(&ArchiveKind::TarZst.key(&release)).await.map_err(failure)?),
        Some(_) => None,
    };
    let packing = tokio::task::spawn_blocking(move || prepare(args, temporary, &layout, console));
    let packed = packing.await.map_err(|e| Failure::failed(e.to_string()))??;
    console.pulse(&format!("uploading {} MB …", packed.bytes / 1_000_000));
    let answer = upload(store.as_ref(), release, Packed { requires, ..packed }, signer.as_ref()).await?;
    console.pulse("");
    console.print(&answer);
    Ok(Exit::Done)
}

/// A configuration that names no store is usage.
pub(super) fn usage(problem: crate::core::Problem) -> Failure {
    let exit_code = if problem.reason == Reason::ConfigInvalid { 64 } else { 1 };
    Failure { exit_code, ..problem.into() }
}

/// What no version of pitstop could look for must not be published: no pod would ever take it.
fn known(requires: &str) -> Result<Vec<Requirement>, Failure> {
    let requires = Requirement::parse_list(requires);
    match requires.iter().find(|need| matches!(need, Requirement::Unknown(_))) {
        None => Ok(requires),
        Some(need) => Err(Failure::usage(format!(
            "--requires {need} is not valid; use ruby=3.3, arch=amd64 or arm64, libc=glibc, libc=glibc=2.36, \
             libc=musl and file=/path/in/the/image"
        ))),
    }
}

/// An archive that is ready to be uploaded.
struct Packed {
    path: PathBuf,
    kind: ArchiveKind,
    sha256: String,
    bytes: u64,
    requires: Vec<Requirement>,
    /// What it holds, as the store keeps it.
    manifest: Vec<u8>,
    /// Removes what was packed here.
    _temporary: Option<tempfile::TempPath>,
}

impl Packed {
    fn published(&self) -> Published {
        let (sha256, requires) = (self.sha256.clone(), self.requires.clone());
        Published { kind: self.kind, sha256, requires, bytes: None }
    }
}

fn prepare(
    args: Publish,
    temporary: Option<NamedTempFile>,
    layout: &Layout,
    console: Console,
) -> Result<Packed, Failure> {
    match (args.archive, args.dir, temporary) {
        (Some(archive), ..) => ready(archive, layout),
        (None, Some(dir), Some(temporary)) => {
            let (exclude, level) = (&args.exclude[..], args.level);
            packed(&dir, temporary, Options { exclude, level, layout, console })
        }
        (None, ..) => Err(Failure::usage("give a directory, or an archive with --archive")),
    }
}

/// What an agent would refuse is refused here: better once than in every pod.
fn check(named: &Path, archive: Archive<impl Read>, layout: &Layout) -> Result<Unpacked, Failure> {
    let checked = unpack::check(archive, &Limits::default(), layout);
    checked.map_err(|e| refused(named, &e))
}

fn refused(named: &Path, why: &UnpackError) -> Failure {
    Failure::failed(format!("{}: {why}", named.display()))
}

/// How a directory is packed.
struct Options<'a> {
    exclude: &'a [PathBuf],
    level: i32,
    layout: &'a Layout,
    console: Console,
}

/// Packs, and reads what it packs meanwhile, as an agent would.
fn packed(dir: &Path, file: NamedTempFile, options: Options<'_>) -> Result<Packed, Failure> {
    let Options { exclude, level, layout, console } = options;
    let mut out = Hashed::new(file.reopen()?);
    let mut shown = Instant::now();
    let mut progress = |entries, bytes| {
        if shown.elapsed() > BETWEEN_LINES {
            shown = Instant::now();
            console.pulse(&format!("packing: {entries} entries, {} MB …", bytes / 1_000_000));
        }
    };
    let kind = ArchiveKind::TarZst;
    let (packed, checked) = std::thread::scope(|scope| {
        let (pieces, receiver) = sync_channel(WAITING);
        let checking = scope.spawn(move || {
            let checked = unpack::check_tar(Pieces::new(receiver), &Limits::default(), layout);
            checked.map_err(|e| refused(dir, &e))
        });
        let packing = Packing { exclude, level, progress: &mut progress };
        let packed = packing.pack(dir, &mut out, pieces);
        (packed, checking.join())
    });
    packed.map_err(|e| Failure::failed(e.to_string()))?;
    let unpacked = checked.map_err(|_| Failure::failed("checking the archive ended by a defect"))??;
    let (sha256, bytes) = out.finish();
    let path = file.into_temp_path();
    let again = |layout: &Layout| check(dir, Archive { reader: File::open(&path)?, bytes, kind }, layout);
    if unpacked.bytes / DENSE > bytes {
        again(layout)?;
    }
    let manifest = manifest(unpacked, layout, again)?;
    let path_buf = path.to_path_buf();
    Ok(Packed { path: path_buf, kind, sha256, bytes, requires: Vec::new(), manifest, _temporary: Some(path) })
}

/// An archive that somebody else packed; what it is, its first bytes say.
fn ready(path: PathBuf, layout: &Layout) -> Result<Packed, Failure> {
    let named = |e: io::Error| Failure::failed(format!("{}: {e}", path.display()));
    let kind = kind(&path)?;
    let open = || File::open(&path).map_err(named);
    let bytes = open()?.metadata().map_err(named)?.len();
    let mut archive = Hashed::new(open()?);
    let unpacked = check(&path, Archive { reader: &mut archive, bytes, kind }, layout)?;
    io::copy(&mut archive, &mut io::sink()).map_err(named)?;
    let again = |layout: &Layout| check(&path, Archive { reader: open()?, bytes, kind }, layout);
    let manifest = manifest(unpacked, layout, again)?;
    let (sha256, bytes) = archive.finish();
    Ok(Packed { path, kind, sha256, bytes, requires: Vec::new(), manifest, _temporary: None })
}

/// What an archive is, and its digest; nothing of it is unpacked.
pub(super) fn measured(path: &Path) -> Result<(ArchiveKind, String), Failure> {
    let kind = kind(path)?;
    let mut archive = Hashed::new(File::open(path)?);
    io::copy(&mut archive, &mut io::sink())?;
    Ok((kind, archive.finish().0))
}

fn kind(path: &Path) -> Result<ArchiveKind, Failure> {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
    ArchiveKind::of(&magic)
        .ok_or_else(|| Failure::failed(format!("{} is neither a tar.zst nor a tar.gz", path.display())))
}

/// What the archive holds, as the store keeps it: without the links that this configuration adds.
fn manifest(
    unpacked: Unpacked,
    layout: &Layout,
    again: impl Fn(&Layout) -> Result<Unpacked, Failure>,
) -> Result<Vec<u8>, Failure> {
    let plain = Layout { strip_prefix: layout.strip_prefix, ..Layout::default() };
    let unpacked = if unpacked.links.is_empty() { unpacked } else { again(&plain)? };
    let mut bytes = Vec::new();
    unpacked.manifest.write(&mut bytes)?;
    Ok(bytes)
}

/// The archive first, then what it holds and who signed it, then its digest, which makes it a release. None replaces
/// anything; what is missing of a release that is published already is put back.
async fn upload(
    store: &dyn Store,
    release: ReleaseId,
    packed: Packed,
    signer: Option<&Signer>,
) -> Result<Answer, Failure> {
    let kind = packed.kind;
    let already_published = is_published(store, &release, &packed).await?;
    let mut may_lack = already_published;
    if !already_published {
        refuse_other_kinds(store, &release, kind).await?;
        let was_there = put_archive(store, &release, &packed).await?;
        put_manifest(store, &release, &packed.manifest).await?;
        sign(store, &release, &packed, signer).await?;
        let key = kind.key(&release);
        let name = key.rsplit('/').next().unwrap_or(&key);
        let line = packed.published().digest_file(name).into_bytes();
        match store.put(&kind.digest_key(&release), Body::Bytes(line), Condition::Absent).await {
            // Another publish of this id was faster: the same bytes, or not.
            Ok(_) | Err(StoreError::Changed(_)) => drop(is_published(store, &release, &packed).await?),
            Err(error) => return Err(failure(error)),
        }
        // `prune --store` may have taken it for what nobody finishes, and have deleted it meanwhile.
        may_lack = was_there;
    }
    if may_lack {
        put_back(store, &release, &packed).await?;
        sign(store, &release, &packed, signer).await?;
    }
    Ok(Answer {
        key: kind.key(&release),
        release,
        signed: signer.is_some(),
        sha256: packed.sha256,
        bytes: packed.bytes,
        already_published,
    })
}

async fn sign(
    store: &dyn Store,
    release: &ReleaseId,
    packed: &Packed,
    signer: Option<&Signer>,
) -> Result<(), Failure> {
    if let Some(signer) = signer {
        sign::put(store, release, (&packed.published(), packed.bytes), signer).await?;
    }
    Ok(())
}

/// What is missing beside a digest that is there. A manifest that another tool made stays.
async fn put_back(store: &dyn Store, release: &ReleaseId, packed: &Packed) -> Result<(), Failure> {
    if !archive::is_uploaded(store, &packed.kind.key(release)).await {
        put_archive(store, release, packed).await?;
    }
    let manifest = Body::Bytes(packed.manifest.clone());
    match store.put(&archive::manifest_key(release), manifest, Condition::Absent).await {
        Ok(_) | Err(StoreError::Changed(_)) => Ok(()),
        Err(error) => Err(failure(error)),
    }
}

/// Whether the release is in the store with these very bytes.
async fn is_published(store: &dyn Store, release: &ReleaseId, packed: &Packed) -> Result<bool, Failure> {
    let found = match archive::find(store, release).await {
        // The first publish makes the store.
        Err(StoreError::Unreachable(_)) => return Ok(false),
        found => found.map_err(failure)?,
    };
    match found {
        None => Ok(false),
        Some(Ok(found)) if found.kind == packed.kind && found.sha256 == packed.sha256 => {
            if found.requires == packed.requires {
                return Ok(true);
            }
            Err(other_bytes(release, "is in the store with different requirements"))
        }
        Some(Ok(found)) if found.kind != packed.kind => Err(other_kind(release, &found.kind.key(release))),
        Some(Ok(_) | Err(Unusable::NoDigest { .. } | Unusable::Utf16 { .. })) => {
            Err(other_bytes(release, "is in the store with different content"))
        }
        Some(Err(why @ Unusable::TwoArchives(..))) => {
            Err(Failure::failed(format!("release {release}: {why}")))
        }
    }
}

/// Also one without its digest is in the way: whose upload it is, and whether it goes on, nobody knows.
async fn refuse_other_kinds(store: &dyn Store, release: &ReleaseId, own: ArchiveKind) -> Result<(), Failure> {
    for kind in ArchiveKind::ALL.into_iter().filter(|kind| *kind != own) {
        if archive::is_uploaded(store, &kind.key(release)).await {
            return Err(other_kind(release, &kind.key(release)));
        }
    }
    Ok(())
}

fn other_kind(release: &ReleaseId, key: &str) -> Failure {
    other_bytes(release, &format!("is in the store as {key}, and a release has only one archive"))
}

/// Whether the same archive was there already.
async fn put_archive(store: &dyn Store, release: &ReleaseId, packed: &Packed) -> Result<bool, Failure> {
    let key = packed.kind.key(release);
    match store.put(&key, Body::File(packed.path.clone()), Condition::Absent).await {
        Ok(_) => Ok(false),
        // A publish that was interrupted before its digest; or one that is under way.
        Err(StoreError::Changed(_)) if stored_digest(store, &key).await? == packed.sha256 => Ok(true),
        Err(StoreError::Changed(_)) => Err(other_bytes(
            release,
            &format!("has an archive without a digest and with different content at {key}"),
        )),
        Err(e) => Err(failure(e)),
    }
}

async fn put_manifest(store: &dyn Store, release: &ReleaseId, manifest: &[u8]) -> Result<(), Failure> {
    let key = archive::manifest_key(release);
    let own = hex(&Sha256::digest(manifest));
    match store.put(&key, Body::Bytes(manifest.to_vec()), Condition::Absent).await {
        Err(StoreError::Changed(_)) if stored_digest(store, &key).await? == own => Ok(()),
        Err(StoreError::Changed(_)) => {
            Err(other_bytes(release, &format!("has a manifest of another archive at {key}; delete it")))
        }
        done => done.map(drop).map_err(failure),
    }
}

async fn stored_digest(store: &dyn Store, key: &str) -> Result<String, Failure> {
    let mut object = store.read(key, 0, None).await.map_err(failure)?;
    let mut hash = Sha256::new();
    loop {
        let chunk = object.chunks.next().await.map_err(failure)?;
        if chunk.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&chunk);
    }
}

fn other_bytes(release: &ReleaseId, what: &str) -> Failure {
    Failure::failed(format!("{release} {what}; a release never changes: publish under another id"))
}

pub(super) fn failure(error: StoreError) -> Failure {
    crate::core::Problem::from(error).into()
}
