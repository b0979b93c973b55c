//! What `verify.url` says: where the app answers inside of this pod.

use std::{net::IpAddr, path::PathBuf};

/// The app's health path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthUrl {
    /// Where it is dialled.
    pub(crate) at: HealthAddress,
    /// The `Host` header, unless `verify.headers` has another.
    pub(crate) host: String,
    /// Path and query.
    pub(crate) path: String,
}

/// Where the app listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HealthAddress {
    /// `host:port`.
    Tcp(String),
    /// The same, with TLS. The certificate is not checked: only this pod's own app is asked.
    Tls(String),
    /// A socket's path, the same for the app and for the agent.
    Unix(PathBuf),
}

impl HealthUrl {
    /// `http://127.0.0.1:3000/up`, `https://127.0.0.1:3000/up`, or `unix:///run/puma/app.sock:/up`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        if url.contains('@') {
            // It would stand on /status and in the log.
            let message = "must not contain a user or password: use verify.headers";
            return Err(message.into());
        }
        if let Some(place) = url.strip_prefix("unix://") {
            return unix(place).ok_or_else(|| wrong(url));
        }
        let uri: hyper::Uri = url.parse().map_err(|_| wrong(url))?;
        let name = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong(url))?;
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let dial = |port| format!("{name}:{}", uri.port_u16().unwrap_or(port));
        let at = match uri.scheme_str() {
            Some("http") => HealthAddress::Tcp(dial(80)),
            Some("https") if is_loopback(name) => HealthAddress::Tls(dial(443)),
            Some("https") => {
                return Err(format!(
                    "{url:?}: https works only for the app in this pod (127.0.0.1, ::1, localhost), because \
                     certificates are not checked"
                ));
            }
            _ => return Err(wrong(url)),
        };
        Ok(Self { at, host, path })
    }

    /// For people: `127.0.0.1:3000`, or the socket's path.
    pub(crate) fn place(&self) -> String {
        match &self.at {
            HealthAddress::Tcp(address) | HealthAddress::Tls(address) => address.clone(),
            HealthAddress::Unix(socket) => socket.display().to_string(),
        }
    }
}

fn unix(place: &str) -> Option<HealthUrl> {
    let (socket, path) = place.split_once(':').unwrap_or((place, "/"));
    let valid = socket.starts_with('/') && path.parse::<hyper::Uri>().is_ok_and(|uri| uri.scheme().is_none());
    (valid && path.starts_with('/')).then(|| HealthUrl {
        at: HealthAddress::Unix(socket.into()),
        host: "localhost".into(),
        path: path.into(),
    })
}

fn wrong(url: &str) -> String {
    format!(
        "\"{url}\" is not http://host:port/path, https://127.0.0.1:port/path or unix:///path/to/a.sock:/path"
    )
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_tls_and_sockets_are_told_apart() {
        let tcp = |address: &str| HealthAddress::Tcp(address.into());
        let tls = |address: &str| HealthAddress::Tls(address.into());
        for (url, at, host, path) in [
            ("http://127.0.0.1:3000/up?x=1", tcp("127.0.0.1:3000"), "127.0.0.1:3000", "/up?x=1"),
            ("http://app", tcp("app:80"), "app", "/"),
            ("https://localhost:3443/up", tls("localhost:3443"), "localhost:3443", "/up"),
            ("https://[::1]/up", tls("[::1]:443"), "[::1]", "/up"),
            ("unix:///run/app.sock:/up", HealthAddress::Unix("/run/app.sock".into()), "localhost", "/up"),
            ("unix:///run/app.sock", HealthAddress::Unix("/run/app.sock".into()), "localhost", "/"),
        ] {
            let expected = HealthUrl { at, host: host.into(), path: path.into() };
            assert_eq!(HealthUrl::parse(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for url in
            ["/up", "http://", "ftp://a/up", "unix://run/app.sock", "unix:///a.sock:up", "unix:///a:http://b"]
        {
            assert!(HealthUrl::parse(url).unwrap_err().contains("is not http://"), "{url}");
        }
        assert!(
            HealthUrl::parse("https://example.com/up").unwrap_err().contains("only for the app in this pod")
        );
        let refused = HealthUrl::parse("http://me:hush@app/up").unwrap_err();
        assert!(refused.contains("user or password") && !refused.contains("hush"), "{refused}");
    }
}
