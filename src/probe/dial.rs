//! A connection to the app: TCP, TLS over it, or a unix socket.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use nix::sys::socket::{setsockopt, sockopt};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream, UnixStream},
    sync::oneshot,
};
use tokio_rustls::TlsConnector;

use super::paused::Paused;
use crate::{
    config::HealthAddress,
    slots::{LIVE_SOURCE, LIVE_TRAFFIC_CLASS, PROBE_SOURCE, PROBE_TRAFFIC_CLASS, candidate_socket},
};

/// Who is asked, where several servers stand side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Who gets the clients' connections.
    Live,
    /// The same, where a candidate may have a share of those.
    LiveBeside,
    /// The server that was started beside the live one.
    Candidate,
}

/// Anything that HTTP can be spoken on.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connected, and not a byte of the request sent yet.
pub(super) enum Dialled {
    Tcp(TcpStream),
    Tls(TcpStream, Box<ServerName<'static>>),
    Unix(UnixStream),
}

impl Dialled {
    pub(crate) async fn to(address: &HealthAddress, whom: Whom) -> Result<Self, String> {
        let tcp = async |address: &str| {
            let stream = match whom {
                Whom::Live => TcpStream::connect(address).await,
                Whom::LiveBeside => marked(address, (LIVE_SOURCE, LIVE_TRAFFIC_CLASS)).await,
                Whom::Candidate => marked(address, (PROBE_SOURCE, PROBE_TRAFFIC_CLASS)).await,
            };
            stream.map_err(|error| error.to_string())
        };
        Ok(match address {
            HealthAddress::Tcp(address) => Self::Tcp(tcp(address).await?),
            HealthAddress::Tls(address) => {
                let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
                let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
                Self::Tls(tcp(address).await?, Box::new(name))
            }
            HealthAddress::Unix(socket) if whom == Whom::Candidate => {
                let own = candidate_socket(socket);
                let why = |error| {
                    format!(
                        "{}: {error}: no second server listens there; exec.listen has to name {}",
                        own.display(),
                        socket.display()
                    )
                };
                Self::Unix(UnixStream::connect(&own).await.map_err(why)?)
            }
            HealthAddress::Unix(socket) => {
                let dialled = UnixStream::connect(socket).await;
                Self::Unix(dialled.map_err(|error| format!("{}: {error}", socket.display()))?)
            }
        })
    }

    /// Our end and the server's, where the kernel tells who has accepted.
    pub(crate) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Self::Tcp(stream) | Self::Tls(stream, _) => stream.local_addr().ok().zip(stream.peer_addr().ok()),
            Self::Unix(_) => None,
        }
    }

    /// For the request, of which the first bytes go ahead and the others wait for `gate`.
    pub(crate) async fn paused(self, gate: oneshot::Receiver<()>) -> Result<Box<dyn Stream>, String> {
        Ok(match self {
            Self::Tcp(stream) => Box::new(Paused::until(gate, stream)),
            Self::Unix(stream) => Box::new(stream),
            Self::Tls(stream, name) => {
                let tls = TlsConnector::from(Arc::new(config()?));
                let greeted = tls.connect(*name, Paused::until(gate, stream)).await;
                Box::new(greeted.map_err(|error| format!("TLS: {error}"))?)
            }
        })
    }
}

/// The address, or the traffic class, of which the parent's program knows whom a connection is for.
type Mark = (Ipv4Addr, u8);

async fn marked(address: &str, mark: Mark) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for target in tokio::net::lookup_host(address).await? {
        match from_marked_source(target, mark).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn from_marked_source(target: SocketAddr, (source, class): Mark) -> io::Result<TcpStream> {
    let target = SocketAddr::new(target.ip().to_canonical(), target.port());
    let (socket, source) = match target {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::from(source)),
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            setsockopt(&socket, sockopt::Ipv6TClass, &class.into())?;
            (socket, Ipv6Addr::LOCALHOST.into())
        }
    };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(target).await
}

fn config() -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.dangerous();
    Ok(config.with_custom_certificate_verifier(Arc::new(OurOwnApp(provider))).with_no_client_auth())
}

/// Whose certificate it is proves nothing here: on loopback there is only this pod's own app, and which process
/// answers is seen in the kernel. `verify.url` has https for loopback only.
#[derive(Debug)]
struct OurOwnApp(Arc<CryptoProvider>);

impl ServerCertVerifier for OurOwnApp {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_candidate_is_asked_from_its_own_address_and_the_live_server_from_any_other() {
        for (listen, url, source) in [
            ("127.0.0.1:0", "127.0.0.1", IpAddr::from(PROBE_SOURCE)),
            ("[::]:0", "127.0.0.1", IpAddr::from(PROBE_SOURCE)),
            ("[::]:0", "[::ffff:127.0.0.1]", IpAddr::from(PROBE_SOURCE)),
            ("[::1]:0", "[::1]", IpAddr::from(Ipv6Addr::LOCALHOST)),
            ("127.0.0.1:0", "localhost", IpAddr::from(PROBE_SOURCE)),
        ] {
            let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let address = HealthAddress::Tcp(format!("{url}:{port}"));
            let _candidate =
                Dialled::to(&address, Whom::Candidate).await.unwrap_or_else(|e| panic!("{url}: {e}"));
            let (_, peer) = listener.accept().await.unwrap();
            assert_eq!(peer.ip().to_canonical(), source, "{listen} at {url}");
            let beside = Dialled::to(&address, Whom::LiveBeside).await;
            let _live = beside.unwrap_or_else(|e| panic!("{url}: {e}"));
            let (_, peer) = listener.accept().await.unwrap();
            let source = if source.is_ipv6() { source } else { IpAddr::from(LIVE_SOURCE) };
            assert_eq!(peer.ip().to_canonical(), source, "{listen} at {url}");
            let _live = Dialled::to(&address, Whom::Live).await.unwrap_or_else(|e| panic!("{url}: {e}"));
            let (_, peer) = listener.accept().await.unwrap();
            assert_ne!(peer.ip().to_canonical(), IpAddr::from(PROBE_SOURCE), "{listen} at {url}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let socket = HealthAddress::Unix(path.clone());
        let refused = Dialled::to(&socket, Whom::Candidate).await.err().unwrap();
        assert!(refused.contains("exec.listen"), "{refused}");
        let candidate = tokio::net::UnixListener::bind(candidate_socket(&path)).unwrap();
        let _asked = Dialled::to(&socket, Whom::Candidate).await.unwrap_or_else(|e| panic!("{e}"));
        candidate.accept().await.unwrap();
    }
}
