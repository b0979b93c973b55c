//! HTTP as every client of AWS's here has it: TLS by ring, https through the proxy that the environment names, and
//! answers with an end.

use std::{
    env, fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_s3::{config::SharedHttpClient, primitives::SdkBody};
use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    runtime_components::RuntimeComponents,
};
use http_body_util::Limited;

/// A refusal is some hundred bytes; what is longer says nothing more.
const REFUSAL_LIMIT_BYTES: usize = 256 << 10;
/// A page of a list has a thousand keys.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;

/// Settings of a connector, and the connector.
type Kept = ((Option<Duration>, Option<Duration>), SharedHttpConnector);

/// Keeps a connector, and with it its open connections, for each pair of time-outs.
struct Client {
    proxy: ProxyConfig,
    connectors: Mutex<Vec<Kept>>,
}

impl fmt::Debug for Client {
    /// The proxy's address may have a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

pub(super) fn client() -> SharedHttpClient {
    SharedHttpClient::new(Client { proxy: proxy(|name| env::var(name).ok()), connectors: Mutex::default() })
}

/// For requests to others than the store. Who sends one limits its time.
pub(crate) fn connector() -> SharedHttpConnector {
    let proxy = proxy(|name| env::var(name).ok());
    let connector =
        Connector::builder().proxy_config(proxy).tls_provider(Provider::Rustls(CryptoMode::Ring)).build();
    SharedHttpConnector::new(Bounded(SharedHttpConnector::new(connector)))
}

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let key = (settings.connect_timeout(), settings.read_timeout());
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connector)) = connectors.iter().find(|(known, _)| *known == key) {
            return connector.clone();
        }
        let mut builder = Connector::builder().connector_settings(settings.clone());
        builder.set_sleep_impl(components.sleep_impl());
        let connector =
            builder.proxy_config(self.proxy.clone()).tls_provider(Provider::Rustls(CryptoMode::Ring)).build();
        let connector = SharedHttpConnector::new(Bounded(SharedHttpConnector::new(connector)));
        connectors.push((key, connector.clone()));
        connector
    }
}

/// The proxy for https: `https_proxy` or `all_proxy`, unless `no_proxy` names the host; each in capitals as well. Plain
/// http goes without one: it is spoken to what is near, such as the places that credentials come from.
fn proxy(variable: impl Fn(&str) -> Option<String>) -> ProxyConfig {
    let first = |names: &[&str]| {
        let all = names.iter().flat_map(|name| [variable(name), variable(&name.to_ascii_uppercase())]);
        all.flatten().map(|value| value.trim().to_owned()).find(|value| !value.is_empty())
    };
    let Some(url) = first(&["https_proxy", "all_proxy"]) else { return ProxyConfig::disabled() };
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    match ProxyConfig::https(url) {
        Ok(proxy) => proxy.no_proxy(first(&["no_proxy"]).unwrap_or_default()),
        // Its value may have a password in it.
        Err(_) => {
            tracing::warn!("HTTPS_PROXY is not the URL of an HTTP proxy (http://host:port) and is ignored");
            ProxyConfig::disabled()
        }
    }
}

/// A server decides what it sends, and not how much of it we keep.
#[derive(Debug)]
struct Bounded(SharedHttpConnector);

impl HttpConnector for Bounded {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        // The content of an object has readers with limits of their own.
        let content = request.method() == "GET" && !request.uri().contains("list-type=");
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            Ok(match answer.status().is_success() {
                true if content => answer,
                true => bounded(answer, ANSWER_LIMIT_BYTES),
                false => bounded(answer, REFUSAL_LIMIT_BYTES),
            })
        })
    }
}

fn bounded(answer: HttpResponse, limit_bytes: usize) -> HttpResponse {
    answer.map(|body| body.map(move |body| SdkBody::from_body_1_x(Limited::new(body, limit_bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> ProxyConfig {
        proxy(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_proxy_is_used_where_the_environment_names_one() {
        for none in [&[][..], &[("HTTPS_PROXY", " ")], &[("HTTP_PROXY", "http://p:1")], &[("NO_PROXY", "*")]]
        {
            assert!(with(none).is_disabled(), "{none:?}");
        }
        for one in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            for value in ["http://p:3128", "p:3128", "http://user:password@p:3128/"] {
                assert!(!with(&[(one, value)]).is_disabled(), "{one}={value}");
            }
        }
        assert!(with(&[("HTTPS_PROXY", "socks5://p:1")]).is_disabled(), "told, and not used");
    }
}
