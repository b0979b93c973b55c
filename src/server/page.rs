//! The page at `/`: this pod and its fleet for a person with a browser, made on the server. It needs no script; with
//! one it refreshes itself.

mod fleet;
mod help;
mod pod;

use std::sync::LazyLock;

use axum::{
    extract::{Path, State},
    http::{
        HeaderMap, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, WWW_AUTHENTICATE,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::Handles;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/refresh.js");
/// What others have written (a report, a reason to move) is cut after so many characters.
const LONGEST_TEXT: usize = 300;

/// Nothing but this style and this script, and requests to where the page came from.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// `GET /`.
pub(super) async fn page(State(handles): State<Handles>, headers: HeaderMap) -> Response {
    if !handles.token.admits_browser(&headers).await {
        return ask_for_token();
    }
    let status = handles.status();
    let overview = match &handles.fleet {
        Some(glance) => Some(glance.look(status.desired.as_ref()).await),
        None => None,
    };
    let title = format!("{}: {}", status.pod, pod::state(&status));
    let body = html! {
        (pod::show(&status))
        @if let Some(overview) = &overview { (fleet::show(overview, &status)) }
    };
    respond(&title, &body, true)
}

/// `GET /help/{name}`: a page of the documents, of this very version.
pub(super) async fn help(
    State(handles): State<Handles>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    if !handles.token.admits_browser(&headers).await {
        return ask_for_token();
    }
    match help::page(&name) {
        Some((title, body)) => respond(title, &body, false),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A browser asks for a user and a password: the password is the token.
fn ask_for_token() -> Response {
    let challenge =
        [(WWW_AUTHENTICATE, r#"Basic realm="pitstop: any user, the token as password", charset="UTF-8""#)];
    (StatusCode::UNAUTHORIZED, challenge, "the token is missing or wrong: any user, the token as password\n")
        .into_response()
}

fn respond(title: &str, body: &Markup, refreshes: bool) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, document(title, body, refreshes).into_string()).into_response()
}

fn document(title: &str, body: &Markup, refreshes: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · pitstop" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p { a href="/" { "pitstop" } " " span { (env!("CARGO_PKG_VERSION")) } }
                    p #refresh role="status" {}
                }
                main { (body) }
                @if refreshes { script { (PreEscaped(SCRIPT)) } }
            }
        }
    }
}

/// A release as its name, with a colour of its own before it.
fn release(id: &str) -> Markup {
    let id = short(id);
    // Two ids that differ in one digit, as consecutive ones do, are far apart.
    let hue = id.bytes().map(u32::from).sum::<u32>() * 5 % 12;
    html! { span .release { span class=(format!("dot hue{hue}")) aria-hidden="true" {} (id) } }
}

/// A code that has a heading in a document, as a link there.
fn code(page: &str, code: &str) -> Markup {
    html! { a .code href=(format!("/help/{page}#{}", code.to_lowercase())) { (code) } }
}

/// A table with a name, which scrolls by itself on a narrow screen.
fn table(name: &str, head: &[&str], rows: &Markup) -> Markup {
    html! {
        div .scrolls role="region" aria-label=(name) tabindex="0" {
            table {
                thead { tr { @for cell in head { th scope="col" { (cell) } } } }
                tbody { (rows) }
            }
        }
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// `3m 5s`: whole seconds, for people.
fn lasting(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs(seconds.max(0.0) as u64);
    humantime::format_duration(whole).to_string()
}
