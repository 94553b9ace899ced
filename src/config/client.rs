//! What commands that speak to a bridge read of the environment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{ConfigError, Variables, listen_address};
use crate::domain::secret::Secret;

const URL: &str = "PRESENCE_BRIDGE_URL";
const API_KEY: &str = "PRESENCE_BRIDGE_API_KEY";
const PROFILE: &str = "PRESENCE_BRIDGE_PROFILE";
const SIGNING_SECRET: &str = "PRESENCE_BRIDGE_SIGNING_SECRET";

/// Where a bridge is and who asks, as far as the environment says so.
#[derive(Debug)]
pub struct ClientSettings {
    /// Address of the bridge.
    pub url: Option<String>,
    /// A key to it.
    pub api_key: Option<Secret>,
    /// Name of a profile.
    pub profile: Option<String>,
    /// The secret that `listen` signs with.
    pub signing_secret: Option<Secret>,
    /// The file of profiles; `None` for a user without a home.
    pub profiles_file: Option<PathBuf>,
    /// The bridge that a person in this folder would start.
    pub local: LocalBridge,
}

/// A bridge of this machine.
#[derive(Debug)]
pub struct LocalBridge {
    /// Address of its API.
    pub url: String,
    /// Its key, if it was chosen.
    pub api_key: Option<Secret>,
    /// The file of its key, if it makes one.
    pub key_file: PathBuf,
}

impl ClientSettings {
    /// Reads them. A setting of the bridge's own counts only as far as it tells where a local bridge is.
    ///
    /// # Errors
    /// If a file that holds a secret cannot be read, or `BRIDGE_LISTEN` breaks its rule.
    pub fn from_variables(variables: &Variables) -> Result<Self, ConfigError> {
        let text = |name: &str| variables.get(name).map(str::to_owned);
        let home = || Some(PathBuf::from(variables.get("HOME")?).join(".config"));
        let folder = variables.get("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        let data_dir = variables.get("BRIDGE_DATA_DIR").unwrap_or("./data");
        Ok(Self {
            url: text(URL),
            api_key: secret(variables, API_KEY)?,
            profile: text(PROFILE),
            signing_secret: secret(variables, SIGNING_SECRET)?,
            profiles_file: folder.map(|folder| folder.join("presence-bridge/profiles.toml")),
            local: LocalBridge {
                url: format!("http://{}", reachable(listen_address(variables)?)),
                // Who cannot read the file of the bridge may have another key.
                api_key: secret(variables, "BRIDGE_API_KEY").unwrap_or_default(),
                key_file: Path::new(data_dir).join("api.key"),
            },
        })
    }
}

/// The content of the file that `NAME_FILE` names, or `NAME`.
fn secret(variables: &Variables, name: &str) -> Result<Option<Secret>, ConfigError> {
    let file = format!("{name}_FILE");
    let Some(path) = variables.get(&file) else {
        return Ok(variables.get(name).map(Secret::new));
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(Secret::new(text.trim()))),
        Err(error) => Err(ConfigError { variable: file, rule: format!("{path} cannot be read: {error}") }),
    }
}

/// An address to connect to where one listens.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> ClientSettings {
        ClientSettings::from_variables(&Variables::from_pairs(pairs.iter().copied())).unwrap()
    }

    #[test]
    fn without_anything_the_local_bridge_is_meant() {
        let found = settings(&[("HOME", "/home/ann")]);
        assert_eq!(found.local.url, "http://127.0.0.1:8080");
        assert_eq!(found.local.key_file, Path::new("./data/api.key"));
        assert_eq!(
            found.profiles_file.unwrap(),
            Path::new("/home/ann/.config/presence-bridge/profiles.toml")
        );
        assert!(found.url.is_none() && found.api_key.is_none());
        for (listen, url) in [("0.0.0.0:81", "http://127.0.0.1:81"), ("[::]:82", "http://[::1]:82")] {
            assert_eq!(settings(&[("BRIDGE_LISTEN", listen)]).local.url, url);
        }
    }

    #[test]
    fn a_key_may_stand_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "key\n").unwrap();
        let path = file.path().to_str().unwrap();
        let found = settings(&[("PRESENCE_BRIDGE_API_KEY_FILE", path), ("PRESENCE_BRIDGE_API_KEY", "other")]);
        assert_eq!(found.api_key.unwrap().expose(), "key");
        let missing = Variables::from_pairs([("PRESENCE_BRIDGE_API_KEY_FILE", "/nowhere")]);
        let error = ClientSettings::from_variables(&missing).unwrap_err();
        assert_eq!(error.variable, "PRESENCE_BRIDGE_API_KEY_FILE");
    }
}
