//! The store as the program opens it, but less patient.

use std::{
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use pitstop::{
    config::{self, S3Location},
    store::{
        Body, Condition, Found, Store, StoreError, Version,
        s3::{Limits, S3Store, Settings},
    },
};
use pitstop_rig::S3Rig;

/// The limits of the tests: so short that a fault costs a moment, so long that a busy machine
/// does not look like one.
pub fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(3),
        idle: Duration::from_millis(1500),
        answer: Duration::from_secs(15),
        attempts: 3,
        back_off: Duration::from_millis(20),
        back_off_max: Duration::from_millis(50),
    }
}

pub fn settings(rig: &S3Rig) -> Settings {
    let keys = rig.keys();
    let credentials = Credentials::new(keys.access, keys.secret, None, None, "the test");
    Settings {
        keys: config::S3 {
            region: Some(pitstop_rig::s3::REGION.into()),
            endpoint: Some(rig.endpoint()),
            path_style: true,
        },
        credentials: Some(SharedCredentialsProvider::new(credentials)),
        limits: limits(),
    }
}

pub fn store(rig: &S3Rig) -> Arc<dyn Store> {
    store_with(rig, settings(rig))
}

pub fn store_with(rig: &S3Rig, settings: Settings) -> Arc<dyn Store> {
    let place = S3Location::parse(&rig.source()).unwrap().unwrap();
    Arc::new(S3Store::new(place, settings))
}

pub async fn put(store: &dyn Store, key: &str, bytes: &[u8]) -> Result<Version, StoreError> {
    store.put(key, Body::Bytes(bytes.into()), Condition::Absent).await
}

pub async fn get(store: &dyn Store, key: &str) -> Result<Found, StoreError> {
    store.get(key, None, 1 << 20).await
}

/// The error's text, when it is of this kind.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>, reason: &str) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.reason().code(), reason, "{error}");
    error.to_string()
}

/// The whole object from an offset on.
pub async fn read(store: &dyn Store, key: &str, offset: u64) -> Result<Vec<u8>, StoreError> {
    let mut object = store.read(key, offset, None).await?;
    let mut bytes = Vec::new();
    loop {
        let chunk = object.chunks.next().await?;
        if chunk.is_empty() {
            return Ok(bytes);
        }
        bytes.extend(chunk);
    }
}

/// A listener on loopback that remembers what it was asked for. Ends with the test's process.
pub struct Listener {
    pub port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    /// Serves each connection on a thread of its own; `serve` calls its second argument with what was asked.
    pub fn start(serve: impl Fn(TcpStream, &dyn Fn(String)) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (heard, serve) = (asked.clone(), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (heard, serve) = (heard.clone(), serve.clone());
                thread::spawn(move || serve(stream.unwrap(), &|asked| heard.lock().unwrap().push(asked)));
            }
        });
        Self { port, asked }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
