//! What the environment says of the Hub, by the names that Hugging Face gives it.

use std::fmt;
use std::path::PathBuf;

use hf_hub::Cache;

use super::HubError;

const ENDPOINT: &str = "https://huggingface.co";

/// Where the Hub is, who asks, and where downloads lie.
#[derive(Clone)]
pub(super) struct Settings {
    /// Without a slash at its end.
    pub(super) endpoint: String,
    pub(super) cache: Cache,
    pub(super) token: Option<String>,
    pub(super) is_offline: bool,
    /// Certificates to trust in place of the built-in ones.
    pub(super) certificates: Option<PathBuf>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A token has no place in a log.
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("has_token", &self.token.is_some())
            .field("is_offline", &self.is_offline)
            .field("certificates", &self.certificates)
            .finish()
    }
}

impl Settings {
    /// Reads `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `SSL_CERT_FILE`
    /// and `REQUESTS_CA_BUNDLE` through `read`. As in Hugging Face's own library an empty variable
    /// counts as unset, downloads lie in `HF_HUB_CACHE`, else in `hub` below `HF_HOME`, and a login's
    /// token is the file `token` there.
    pub(super) fn new(
        read: impl Fn(&str) -> Option<String>,
        home: Option<PathBuf>,
    ) -> Result<Self, HubError> {
        let get = |name: &str| {
            let value = read(name).map(|value| value.trim().to_owned());
            value.filter(|value| !value.is_empty())
        };
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let uri = endpoint.parse::<ureq::http::Uri>().ok();
        let is_address = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        if !is_address {
            return Err(HubError::BadEndpoint { endpoint });
        }
        let below_home = || {
            let cache = get("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.filter(|path| path.is_absolute());
            let cache = cache.or_else(|| home.map(|home| home.join(".cache")))?;
            Some(cache.join("huggingface"))
        };
        let hf_home = get("HF_HOME")
            .map(PathBuf::from)
            .or_else(below_home)
            .ok_or(HubError::NoHome)?;
        let in_home = Cache::new(hf_home.join("hub"));
        let token = get("HF_TOKEN").or_else(|| in_home.token());
        let cache = get("HF_HUB_CACHE").map_or(in_home, |path| Cache::new(path.into()));
        let is_offline = get("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
        });
        let certificates = get("SSL_CERT_FILE").or_else(|| get("REQUESTS_CA_BUNDLE"));
        Ok(Self {
            endpoint,
            cache,
            token,
            is_offline,
            certificates: certificates.map(PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let read = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::new(read, Some("/home/ada".into()))
    }

    #[test]
    fn an_empty_environment_means_the_hub_itself() {
        for variables in [&[][..], &[("HF_ENDPOINT", ""), ("HF_HUB_OFFLINE", "0")]] {
            let found = settings(variables).unwrap();
            assert_eq!(found.endpoint, "https://huggingface.co");
            let cache = PathBuf::from("/home/ada/.cache/huggingface/hub");
            assert_eq!(found.cache.path(), &cache);
            assert!(found.token.is_none() && !found.is_offline);
        }
        let nowhere = Settings::new(|_| None, None);
        assert!(matches!(nowhere, Err(HubError::NoHome)));
    }

    #[test]
    fn the_variables_mean_what_they_mean_to_hugging_face() {
        let found = settings(&[
            ("HF_ENDPOINT", "http://localhost:8080/"),
            ("HF_HOME", "/data/hf"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_OFFLINE", "True"),
        ])
        .unwrap();
        assert_eq!(found.endpoint, "http://localhost:8080");
        assert_eq!(found.cache.path(), &PathBuf::from("/data/hf/hub"));
        assert_eq!(found.token.as_deref(), Some("hf_secret"));
        assert!(found.is_offline);
        assert!(!format!("{found:?}").contains("secret"));
        let found = settings(&[("HF_HOME", "/data/hf"), ("HF_HUB_CACHE", "/fast")]).unwrap();
        assert_eq!(found.cache.path(), &PathBuf::from("/fast"));
        let found = settings(&[("XDG_CACHE_HOME", "/cache")]).unwrap();
        assert_eq!(found.cache.path(), &PathBuf::from("/cache/huggingface/hub"));
    }

    #[test]
    fn a_login_leaves_its_token_in_the_home_of_hugging_face() {
        let home = tempfile::tempdir().unwrap();
        fs_err::write(home.path().join("token"), "hf_login\n").unwrap();
        let path = home.path().to_str().unwrap();
        let found = settings(&[("HF_HOME", path)]).unwrap();
        assert_eq!(found.token.as_deref(), Some("hf_login"));
        let found = settings(&[("HF_HOME", path), ("HF_TOKEN", "hf_given")]).unwrap();
        assert_eq!(found.token.as_deref(), Some("hf_given"));
    }

    #[test]
    fn an_endpoint_is_an_address() {
        for endpoint in ["huggingface.co", "ftp://hub", "/hub", "http://"] {
            let refused = settings(&[("HF_ENDPOINT", endpoint)]).unwrap_err();
            assert!(refused.to_string().contains("HF_ENDPOINT"), "{endpoint}");
        }
    }
}
