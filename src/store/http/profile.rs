//! Region and endpoint as the environment and the shared config file name them.
//!
//! The same variables and file that Amazon's own tools read, so that a machine set up for those needs no more.

use std::path::PathBuf;

/// What was found; explicit options come before any of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ambient {
    /// Region to sign for.
    pub region: Option<String>,
    /// Server URL.
    pub endpoint: Option<String>,
}

/// Looks in the environment, then in the config file under `profile` (else `AWS_PROFILE`, else `default`).
pub async fn ambient(profile: Option<&str>) -> Ambient {
    let from_environment = Ambient {
        region: variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")),
        endpoint: variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")),
    };
    let from_file = match config_file() {
        Some(path) => {
            let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
            let chosen = profile.map(str::to_owned).or_else(|| variable("AWS_PROFILE"));
            section(&text, chosen.as_deref().unwrap_or("default"))
        }
        None => Ambient::default(),
    };
    Ambient {
        region: from_environment.region.or(from_file.region),
        endpoint: from_environment.endpoint.or(from_file.endpoint),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn config_file() -> Option<PathBuf> {
    match variable("AWS_CONFIG_FILE") {
        Some(path) => Some(PathBuf::from(path)),
        None => variable("HOME").map(|home| PathBuf::from(home).join(".aws/config")),
    }
}

/// The settings of one profile: `[default]` or `[profile NAME]`, lines of `name = value`.
fn section(text: &str, profile: &str) -> Ambient {
    let mut found = Ambient::default();
    let mut inside = false;
    for line in text.lines() {
        if let Some(title) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = title.trim();
            let name = name.strip_prefix("profile ").map_or(name, str::trim);
            inside = name == profile;
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            // Indented lines belong to a nested section (`s3 =`), which may reuse a name.
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match name.trim_end() {
                "region" => found.region = value,
                "endpoint_url" => found.endpoint = value,
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_and_others_are_not() {
        let text = "[default]\nregion = eu-west-1\n# comment\n[profile lab]\nregion=garage\ns3 =\n  region = nested\n\
                    endpoint_url = http://127.0.0.1:3900\n[other]\nregion = x\n";
        let default = section(text, "default");
        assert_eq!(default, Ambient { region: Some("eu-west-1".into()), endpoint: None });
        let lab = section(text, "lab");
        assert_eq!(lab.region.as_deref(), Some("garage"));
        assert_eq!(lab.endpoint.as_deref(), Some("http://127.0.0.1:3900"));
        assert_eq!(section(text, "none"), Ambient::default());
    }
}
