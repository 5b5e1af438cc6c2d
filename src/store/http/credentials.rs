//! Who asks: finds credentials where Amazon's own tools look for them, keeps them, and renews them in time.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProcessCredentialProvider, ProfileCredentialProvider, SSOCredentialProvider,
};
use reqsign_command_execute_tokio::TokioCommandExecute;
use reqsign_core::time::Timestamp;
use reqsign_core::{Context, HttpSend, OsEnv, ProvideCredentialDyn, SigningCredential};
use reqsign_file_read_tokio::TokioFileRead;
use reqsign_http_send_reqwest::ReqwestHttpSend;

/// Longest wait for an answer of the machine's own metadata service, which is near or absent.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for an answer of a token service.
const TOKEN_SERVICE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest search for credentials over all sources.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);
/// A metadata service lives at a link-local address.
const LINK_LOCAL: &str = "169.254.";

/// Access key, secret, and the session token of temporary ones. `Debug` does not show them.
pub type Credentials = Credential;

type Provider = Box<dyn ProvideCredentialDyn<Credential = Credential>>;

/// A source of valid credentials.
pub struct CredentialSource {
    providers: Vec<(&'static str, Provider)>,
    context: Context,
    current: RwLock<Option<Arc<Credentials>>>,
    /// Held while one caller looks, so that the others wait for what it finds.
    search: tokio::sync::Mutex<()>,
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.providers.iter().map(|(name, _)| name).collect();
        f.debug_struct("CredentialSource").field("providers", &names).finish_non_exhaustive()
    }
}

impl CredentialSource {
    /// The usual places, in the usual order. A profile chosen by the user comes before the environment, as it does for
    /// Amazon's tools, and is the only place looked at.
    pub fn new(profile: Option<&str>) -> CredentialSource {
        let providers: Vec<(&'static str, Provider)> = match profile {
            Some(name) => vec![
                ("profile", Box::new(ProfileCredentialProvider::new().with_profile(name))),
                ("single sign-on", Box::new(SSOCredentialProvider::new().with_profile(name))),
                ("credential process", Box::new(ProcessCredentialProvider::new().with_profile(name))),
            ],
            None => vec![
                ("environment", Box::new(EnvCredentialProvider::new())),
                ("web identity", Box::new(AssumeRoleWithWebIdentityCredentialProvider::new())),
                ("profile", Box::new(ProfileCredentialProvider::new())),
                ("single sign-on", Box::new(SSOCredentialProvider::new())),
                ("credential process", Box::new(ProcessCredentialProvider::new())),
                ("container", Box::new(ECSCredentialProvider::new())),
                ("machine metadata", Box::new(IMDSv2CredentialProvider::new())),
            ],
        };
        CredentialSource::from_providers(providers)
    }

    /// One pair of keys.
    pub fn fixed(access_key_id: &str, secret_access_key: &str) -> CredentialSource {
        let provider = reqsign_aws_v4::StaticCredentialProvider::new(access_key_id, secret_access_key);
        CredentialSource::from_providers(vec![("fixed", Box::new(provider))])
    }

    /// Valid credentials, found or renewed if need be. The error says where was looked.
    pub async fn current(&self) -> Result<Arc<Credentials>, String> {
        if let Some(fresh) = self.kept().filter(|kept| kept.is_valid()) {
            return Ok(fresh);
        }
        let _searching = self.search.lock().await;
        if let Some(fresh) = self.kept().filter(|kept| kept.is_valid()) {
            return Ok(fresh);
        }
        match self.look().await {
            Ok(found) => {
                let found = Arc::new(found);
                self.keep(Some(found.clone()));
                Ok(found)
            }
            // Renewal begins two minutes early: until then the old ones still do.
            Err(why) => self.kept().filter(|kept| kept.is_valid_at(Timestamp::now())).ok_or(why),
        }
    }

    /// Forgets these credentials because the server says that they have expired; the next caller looks again.
    pub fn reject(&self, rejected: &Arc<Credentials>) {
        if self.kept().is_some_and(|kept| Arc::ptr_eq(&kept, rejected)) {
            self.keep(None);
        }
    }

    fn from_providers(providers: Vec<(&'static str, Provider)>) -> CredentialSource {
        let context = Context::new()
            .with_env(OsEnv)
            .with_file_read(TokioFileRead)
            .with_command_execute(TokioCommandExecute)
            .with_http_send(Bounded::default());
        CredentialSource {
            providers,
            context,
            current: RwLock::new(None),
            search: tokio::sync::Mutex::new(()),
        }
    }

    async fn look(&self) -> Result<Credentials, String> {
        let search = async {
            for (name, provider) in &self.providers {
                match provider.provide_credential_dyn(&self.context).await {
                    Ok(Some(found)) => return Some((*name, found)),
                    Ok(None) => log::debug!("No credentials from {name}"),
                    Err(error) => log::debug!("No credentials from {name}: {error}"),
                }
            }
            None
        };
        match tokio::time::timeout(SEARCH_TIMEOUT, search).await {
            Ok(Some((name, found))) => {
                log::debug!("Credentials from {name}");
                Ok(found)
            }
            Ok(None) | Err(_) => {
                let places: Vec<_> = self.providers.iter().map(|(name, _)| *name).collect();
                Err(format!("no credentials found (looked at: {})", places.join(", ")))
            }
        }
    }

    fn kept(&self) -> Option<Arc<Credentials>> {
        self.current.read().expect("no code panics while it holds this lock").clone()
    }

    fn keep(&self, credentials: Option<Arc<Credentials>>) {
        *self.current.write().expect("no code panics while it holds this lock") = credentials;
    }
}

/// Sends the requests of credential providers with a time limit: a metadata service that is not there would hang them.
#[derive(Debug, Default)]
struct Bounded {
    inner: ReqwestHttpSend,
}

impl HttpSend for Bounded {
    fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> impl Future<Output = reqsign_core::Result<http::Response<Bytes>>> + Send {
        let limit = answer_timeout(request.uri().host().unwrap_or_default());
        async move {
            match tokio::time::timeout(limit, self.inner.http_send(request)).await {
                Ok(answer) => answer,
                Err(_) => Err(reqsign_core::Error::unexpected("no answer in time")),
            }
        }
    }
}

fn answer_timeout(host: &str) -> Duration {
    if host.starts_with(LINK_LOCAL) { METADATA_TIMEOUT } else { TOKEN_SERVICE_TIMEOUT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqsign_core::ProvideCredential;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Hands out credentials that expire after a while, and counts; fails after the first when told so.
    #[derive(Debug)]
    struct Temporary {
        lifetime: Duration,
        given: Arc<AtomicU32>,
        most: u32,
    }

    impl ProvideCredential for Temporary {
        type Credential = Credential;

        async fn provide_credential(&self, _: &Context) -> reqsign_core::Result<Option<Credential>> {
            if self.given.load(Ordering::SeqCst) >= self.most {
                return Err(reqsign_core::Error::unexpected("away"));
            }
            let serial = self.given.fetch_add(1, Ordering::SeqCst);
            Ok(Some(Credential {
                access_key_id: format!("AK{serial}"),
                secret_access_key: "very-secret".to_owned(),
                session_token: None,
                expires_in: Some(Timestamp::now() + self.lifetime),
            }))
        }
    }

    fn source(lifetime_secs: u64, most: u32) -> (CredentialSource, Arc<AtomicU32>) {
        let given = Arc::new(AtomicU32::new(0));
        let provider = Temporary { lifetime: Duration::from_secs(lifetime_secs), given: given.clone(), most };
        (CredentialSource::from_providers(vec![("test", Box::new(provider))]), given)
    }

    #[tokio::test]
    async fn credentials_are_kept_renewed_and_rejected() {
        let (long, given) = source(3600, 9);
        let (a, b) = tokio::join!(long.current(), long.current());
        assert_eq!(a.unwrap().access_key_id, b.unwrap().access_key_id);
        assert_eq!(given.load(Ordering::SeqCst), 1, "one search serves all who wait");
        long.reject(&long.current().await.unwrap());
        assert_eq!(long.current().await.unwrap().access_key_id, "AK1");

        let (short, given) = source(60, 9);
        short.current().await.unwrap();
        short.current().await.unwrap();
        assert_eq!(given.load(Ordering::SeqCst), 2, "what expires soon is renewed");
    }

    #[tokio::test]
    async fn old_credentials_serve_while_renewal_fails() {
        let (source, _) = source(60, 1);
        assert_eq!(source.current().await.unwrap().access_key_id, "AK0");
        assert_eq!(source.current().await.unwrap().access_key_id, "AK0");
    }

    #[tokio::test]
    async fn nothing_found_names_the_places() {
        let (source, _) = source(60, 0);
        let why = source.current().await.unwrap_err();
        assert_eq!(why, "no credentials found (looked at: test)");
    }

    #[test]
    fn an_absent_metadata_service_is_not_waited_for() {
        assert_eq!(answer_timeout("169.254.169.254"), Duration::from_secs(1));
        assert_eq!(answer_timeout("sts.amazonaws.com"), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn secrets_are_not_printed() {
        let (source, _) = source(3600, 1);
        let found = source.current().await.unwrap();
        assert!(!format!("{source:?} {found:?}").contains("very-secret"));
    }
}
