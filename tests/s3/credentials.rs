//! Where the program finds its credentials, as in a cluster and elsewhere.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::Command,
};

use pitstop_rig::S3Rig;

use crate::rig::Listener;

/// Answers every request with the same document.
fn issuer(content_type: &'static str, document: String) -> Listener {
    Listener::start(move |stream, asked| answer(stream, asked, content_type, &document))
}

fn answer(mut stream: TcpStream, asked: &dyn Fn(String), content_type: &str, document: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        request += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    asked(request + &String::from_utf8(body).unwrap());
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        document.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(document.as_bytes()).unwrap();
}

struct Case {
    rig: S3Rig,
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let rig = S3Rig::start();
        rig.put("releases/v1.tar.zst.sha256", b"digest".to_vec());
        Self { rig, dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `pitstop releases` in this environment; what it said.
    fn releases(&self, env: &[(&str, &str)]) -> (bool, String) {
        let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        pitstop.args(["releases", "--json"]).env_clear().envs(self.rig.env_without_credentials());
        pitstop.env("PITSTOP_DEPLOY_TO", self.dir.path()).envs(env.iter().copied());
        let output = pitstop.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    #[track_caller]
    fn lists(&self, env: &[(&str, &str)]) {
        let (listed, said) = self.releases(env);
        assert!(listed && said.contains(r#""release":"v1","in_store":true"#), "{said}");
    }

    fn with_session(&self) -> bool {
        self.rig.seen().last().unwrap().session
    }
}

#[test]
fn without_any_the_remedies_are_told() {
    let case = Case::new();
    let (listed, said) = case.releases(&[]);
    assert!(!listed, "{said}");
    assert!(said.contains("the store refuses access") && said.contains("no credentials"), "{said}");
    assert!(said.contains("IRSA or Pod Identity") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    assert_eq!(case.rig.seen(), []);
}

#[test]
fn without_a_region_the_key_is_told_and_nobody_asked() {
    let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
    pitstop.arg("releases").env_clear().env("AWS_EC2_METADATA_DISABLED", "true");
    pitstop.envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")]);
    let output = pitstop.env("PITSTOP_SOURCE", "s3://a-bucket/shop").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.code() == Some(1) && said.contains("the region is not set: set s3.region"),
        "{said}"
    );
}

#[test]
fn from_a_profile() {
    let case = Case::new();
    let keys = case.rig.keys();
    let text =
        format!("[deployer]\naws_access_key_id = {}\naws_secret_access_key = {}\n", keys.access, keys.secret);
    let file = case.file("credentials", &text);
    case.lists(&[("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()), ("AWS_PROFILE", "deployer")]);
}

/// IRSA: the pod's service account has a token, which the token service trades for credentials.
#[test]
fn from_a_service_account_with_a_role() {
    let case = Case::new();
    let keys = case.rig.keys();
    let document = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>a-session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        keys.access, keys.secret
    );
    let sts = issuer("text/xml", document);
    let token = case.file("token", "the-service-account");
    case.lists(&[
        ("AWS_ENDPOINT_URL_STS", &format!("http://127.0.0.1:{}", sts.port)),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pitstop"),
    ]);
    assert!(case.with_session());
    let asked = sts.asked().concat();
    assert!(asked.contains("AssumeRoleWithWebIdentity") && asked.contains("the-service-account"), "{asked}");
}

#[test]
fn from_pod_identity() {
    let case = Case::new();
    let keys = case.rig.keys();
    let document = serde_json::json!({
        "AccessKeyId": keys.access, "SecretAccessKey": keys.secret, "Token": "a-session",
        "Expiration": "2099-01-01T00:00:00Z",
    });
    let agent = issuer("application/json", document.to_string());
    let token = case.file("token", "the-pod");
    case.lists(&[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("http://127.0.0.1:{}/v1/credentials", agent.port)),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
    ]);
    assert!(case.with_session());
    assert!(agent.asked().concat().contains("the-pod"));
}

/// `aws sso login` leaves a token, which the portal trades for credentials of the role.
#[test]
fn from_single_sign_on_and_who_is_not_signed_in_is_told_how() {
    let case = Case::new();
    let keys = case.rig.keys();
    let config = "[profile night]\nsso_session = night\nsso_account_id = 123456789012\nsso_role_name = promoter\n\
                  [sso-session night]\nsso_region = eu-central-1\nsso_start_url = https://company.awsapps.com/start\n";
    let config = case.file("config", config);
    let document = serde_json::json!({ "roleCredentials": {
        "accessKeyId": keys.access, "secretAccessKey": keys.secret, "sessionToken": "a-session",
        "expiration": 4_070_908_800_000_u64,
    }});
    let portal = issuer("application/json", document.to_string());
    let url = format!("http://127.0.0.1:{}", portal.port);
    let env = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_PROFILE", "night"),
        ("HOME", case.dir.path().to_str().unwrap()),
        ("AWS_ENDPOINT_URL_SSO", &url),
    ];
    let (listed, said) = case.releases(&env);
    assert!(!listed && said.contains("aws sso login"), "{said}");
    assert!(!said.contains("cargo"), "{said}");
    let cache = case.dir.path().join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).unwrap();
    let token = r#"{"accessToken":"the-token","expiresAt":"2099-01-01T00:00:00Z"}"#;
    // By the SHA-1 of the session's name.
    std::fs::write(cache.join("1be2a44cb53dde903be8466c08dee9067da8ede3.json"), token).unwrap();
    case.lists(&env);
    assert!(case.with_session());
    assert!(portal.asked().concat().contains("the-token"));
}

#[test]
fn from_a_process_that_the_profile_names() {
    let case = Case::new();
    let keys = case.rig.keys();
    let document = serde_json::json!({
        "Version": 1, "AccessKeyId": keys.access, "SecretAccessKey": keys.secret, "SessionToken": "a-session",
        "Expiration": "2099-01-01T00:00:00Z",
    });
    let answer = case.file("answer.json", &document.to_string());
    let config = case
        .file("config", &format!("[profile vault]\ncredential_process = /bin/cat {}\n", answer.display()));
    case.lists(&[("AWS_CONFIG_FILE", config.to_str().unwrap()), ("AWS_PROFILE", "vault")]);
    assert!(case.with_session());
}
