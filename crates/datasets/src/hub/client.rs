//! Questions to the Hub: what a file is, and its bytes.

use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::HubError;
use super::settings::Settings;

/// Together they are how long a connection may take.
const RESOLVE: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(6);

/// How long the server may say nothing.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// Longest file that is downloaded, in bytes; those of the data sets take 120 million.
const LONGEST: u64 = 1 << 30;

/// From the Hub to its store, with some to spare.
const REDIRECTS: usize = 5;

/// Asks the Hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<String>,
}

/// What the Hub says of a file.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) url: String,
    /// The commit that the branch points to.
    pub(super) commit: String,
    /// Names the contents; their SHA-256 where the file lies in the Hub's large-file store.
    pub(super) etag: String,
    pub(super) size: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Head,
    Get,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, HubError> {
        let endpoint = &settings.endpoint;
        let uri: Uri = endpoint.parse().map_err(|_| HubError::BadEndpoint {
            endpoint: endpoint.clone(),
        })?;
        let tls = TlsConfig::builder().root_certs(trusted(settings)?).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("mesa/", env!("CARGO_PKG_VERSION"), "; hf-hub"))
            // A refusal is an answer, and where redirects lead is looked at here.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .https_only(uri.scheme_str() == Some("https"))
            .timeout_resolve(Some(RESOLVE))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build();
        Ok(Self {
            agent: agent.into(),
            endpoint: uri,
            token: settings.token.clone(),
        })
    }

    /// What the Hub says of the file at `url`. Its contents may lie elsewhere: that server is not
    /// asked.
    pub(super) fn ask(&self, url: &str) -> Result<Remote, HubError> {
        let response = self.call(Method::Head, url, 0)?;
        let expect = |expected| HubError::NotTheHub {
            url: url.to_owned(),
            expected,
        };
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        // Both become names of files, so that nothing else may stand in them.
        let named = |text: &String| {
            (1..=128).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let commit = header("x-repo-commit").filter(named);
        let commit = commit.ok_or_else(|| expect("a commit in X-Repo-Commit"))?;
        let etag = header("x-linked-etag").or_else(|| header("etag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").replace('"', ""));
        let etag = etag.filter(named);
        let etag = etag.ok_or_else(|| expect("a name of the contents in ETag"))?;
        let size = header("x-linked-size").or_else(|| {
            let length = header("content-length");
            length.filter(|_| !response.status().is_redirection())
        });
        let size = size
            .and_then(|size| size.parse().ok())
            .filter(|size| *size > 0);
        let size = size.ok_or_else(|| expect("a size in X-Linked-Size or Content-Length"))?;
        check_size(url, size)?;
        Ok(Remote {
            url: url.to_owned(),
            commit,
            etag,
            size,
        })
    }

    /// The bytes of a file from `start` on, or all of it where the server knows no better.
    pub(super) fn open(&self, url: &str, start: u64) -> Result<Response<Body>, HubError> {
        self.call(Method::Get, url, start)
    }

    /// Follows redirects, for a HEAD only those within the Hub: the last answer of the Hub itself
    /// says what a file is.
    fn call(&self, method: Method, url: &str, start: u64) -> Result<Response<Body>, HubError> {
        let expect = |expected| HubError::NotTheHub {
            url: url.to_owned(),
            expected,
        };
        let mut place: Uri = url.parse().map_err(|_| expect("an address"))?;
        for _ in 0..REDIRECTS {
            let response = self.send(method, &place, start)?;
            let status = response.status();
            if !status.is_redirection() {
                return if status.is_success() {
                    Ok(response)
                } else {
                    Err(refused(url, status))
                };
            }
            let location = response.headers().get("location");
            let location = location.and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| resolve(&place, location));
            let next = next.ok_or_else(|| expect("an address in Location"))?;
            if method == Method::Head && !is_same_origin(&next, &self.endpoint) {
                return Ok(response);
            }
            place = next;
        }
        Err(expect("fewer redirects"))
    }

    fn send(&self, method: Method, place: &Uri, start: u64) -> Result<Response<Body>, HubError> {
        let mut request = match method {
            Method::Head => self.agent.head(place),
            Method::Get => self.agent.get(place),
        };
        // Lengths and ranges are those of the file, not of something compressed.
        request = request.header("Accept-Encoding", "identity");
        // The token is the Hub's business alone, and whoever keeps its files is somebody else.
        if let Some(token) = &self.token
            && is_same_origin(place, &self.endpoint)
        {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        request.call().map_err(|error| {
            let url = without_query(place);
            match error {
                ureq::Error::Timeout(_) => HubError::NoAnswer {
                    url,
                    seconds: SILENCE.as_secs(),
                },
                error => HubError::Unreachable {
                    url,
                    source: error.into(),
                },
            }
        })
    }
}

/// Mozilla's certificates, or those of the file that the environment names: a proxy that looks into
/// connections has one of its own.
fn trusted(settings: &Settings) -> Result<RootCerts, HubError> {
    let Some(path) = &settings.certificates else {
        return Ok(RootCerts::WebPki);
    };
    let failed = |source| HubError::Certificates {
        path: path.clone(),
        source,
    };
    let pem = fs_err::read(path).map_err(|error| failed(Some(error)))?;
    // Keys and whatever else stands between them is passed over.
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(failed(None));
    }
    Ok(certificates.into())
}

/// Whether an answer's body broke off because nothing came any more.
pub(super) fn is_silence(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(ureq::Error::Timeout(_))) || error.kind() == std::io::ErrorKind::TimedOut
}

fn check_size(url: &str, size: u64) -> Result<(), HubError> {
    if size > LONGEST {
        return Err(HubError::TooLong {
            url: url.to_owned(),
            size,
            most: LONGEST,
        });
    }
    Ok(())
}

/// A refusal, with what to do about it.
pub(super) fn refused(url: &str, status: StatusCode) -> HubError {
    let advice = match status.as_u16() {
        401 => "a token that it accepts goes into HF_TOKEN, and one that is out of date has to go",
        403 => "the token in HF_TOKEN has no access; ask for it on the data set's page",
        404 => "there is no such file; check HF_ENDPOINT",
        429 => "it was asked too often; wait, or set HF_TOKEN",
        500.. => "try again later",
        _ => "check HF_ENDPOINT",
    };
    HubError::Refused {
        url: url.to_owned(),
        status: status.to_string(),
        advice,
    }
}

/// Where `location` leads from `place`.
fn resolve(place: &Uri, location: &str) -> Option<Uri> {
    let next: Uri = location.parse().ok()?;
    if next.host().is_some() {
        return next.scheme().is_some().then_some(next);
    }
    let mut parts = place.clone().into_parts();
    // The Hub's own redirects name a path from its root.
    parts.path_and_query = Some(next.path_and_query()?.clone());
    Uri::from_parts(parts).ok()
}

fn is_same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        let usual = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        uri.port_u16().unwrap_or(usual)
    };
    a.scheme() == b.scheme() && a.host() == b.host() && port(a) == port(b)
}

/// The signature in a store's address is nobody's business.
fn without_query(place: &Uri) -> String {
    let text = place.to_string();
    text.split_once('?')
        .map_or(text.clone(), |(head, _)| head.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_within_the_hub_or_to_another_server() {
        let place: Uri = "https://hub/datasets/a/resolve/main/f".parse().unwrap();
        let leads = |location: &str| resolve(&place, location).map(|uri| uri.to_string());
        assert_eq!(leads("/b?c=d").as_deref(), Some("https://hub/b?c=d"));
        assert_eq!(leads("http://cdn/f").as_deref(), Some("http://cdn/f"));
        assert_eq!(leads("not an address"), None);
        let same = |a: &str, b: &str| is_same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://hub/a", "https://hub:443/b"));
        assert!(!same("https://hub/a", "http://hub/a"));
        assert!(!same("https://hub/a", "https://cdn.hub/a"));
        assert!(!same("http://hub:8080/a", "http://hub:8081/a"));
    }

    #[test]
    fn a_file_of_certificates_has_to_hold_some() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |path: String| {
            let read = |name: &str| (name == "SSL_CERT_FILE").then(|| path.clone());
            let settings = Settings::new(read, Some("/home/ada".into())).unwrap();
            trusted(&settings).map(|_| ())
        };
        for path in [file.path().display().to_string(), "/missing".to_owned()] {
            let refused = with(path.clone()).unwrap_err().to_string();
            assert!(refused.contains(&path) && refused.contains("SSL_CERT_FILE"));
        }
    }

    #[test]
    fn a_file_may_have_a_gibibyte() {
        assert!(check_size("https://hub/f", 1 << 30).is_ok());
        let refused = check_size("https://hub/f", (1 << 30) + 1).unwrap_err();
        let expected = "https://hub/f has 1073741825 bytes, at most 1073741824";
        assert!(refused.to_string().starts_with(expected), "{refused}");
    }

    #[test]
    fn messages_leave_signatures_out() {
        let place: Uri = "https://cdn/f?signature=secret".parse().unwrap();
        assert_eq!(without_query(&place), "https://cdn/f");
    }
}
