//! A connection to the app: TCP, TLS over it, or a unix socket.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::oneshot,
};
use tokio_rustls::TlsConnector;

use super::paused::Paused;
use crate::config::HealthAddress;

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
    pub(crate) async fn to(address: &HealthAddress) -> Result<Self, String> {
        let tcp = async |address: &str| TcpStream::connect(address).await.map_err(|error| error.to_string());
        Ok(match address {
            HealthAddress::Tcp(address) => Self::Tcp(tcp(address).await?),
            HealthAddress::Tls(address) => {
                let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
                let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
                Self::Tls(tcp(address).await?, Box::new(name))
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
