//! Opens a bucket: who asks, where it is, whether it answers, what the server can do.

pub mod revisit;

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::store::http::client::HttpClient;
use crate::store::http::credentials::CredentialSource;
use crate::store::http::profile::ambient;
use crate::store::http::refusal::effect;
use crate::store::s3::address::Address;
use crate::store::s3::client::{Call, CallError, Login, S3Client};
use crate::store::s3::dialect::Dialect;
use crate::store::s3::probe::probe;
use crate::store::s3::{Identity, S3Options, S3Store, ServerFacts};
use crate::store::{Op, OpenError};

/// Signed for until the server names another; the one most servers take.
const FIRST_REGION: &str = "us-east-1";
/// Most attempts of one request while the volume is opened.
pub(super) const ATTEMPTS_MAX: u32 = 3;
/// Wait before the second attempt; doubled before the third.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(250);

/// The way to a bucket's part below a prefix: all but what only its server can tell.
pub struct Way {
    bucket: String,
    prefix: String,
    options: S3Options,
    http: HttpClient,
    login: Arc<Login>,
    volume: String,
}

impl Way {
    /// Finds out who asks and where. `prefix` is empty or ends in `/`. The server is not asked.
    pub async fn find(
        bucket: &str,
        prefix: &str,
        options: &S3Options,
        stall_timeout: Duration,
    ) -> Result<Way, OpenError> {
        let ambient = ambient(options.identity.profile()).await;
        let options = S3Options {
            endpoint: options.endpoint.clone().or(ambient.endpoint),
            region: options.region.clone().or(ambient.region),
            ..options.clone()
        };
        let http = HttpClient::new(stall_timeout).map_err(OpenError::Options)?;
        let login = Arc::new(login(&options).await?);
        let volume = volume(bucket, prefix, options.endpoint.as_deref());
        Ok(Way { bucket: bucket.to_owned(), prefix: prefix.to_owned(), options, http, login, volume })
    }

    /// Whether these facts are about the volume that it leads to.
    pub fn leads_to_volume_of(&self, facts: &ServerFacts) -> bool {
        self.volume == facts.volume
    }

    /// Opens the volume once its server has answered, for looking only: nothing is written, and what the server can do is
    /// taken to be what Amazon's can.
    pub async fn look(&self) -> Result<S3Store, OpenError> {
        let region = self.options.region.as_deref().unwrap_or(FIRST_REGION);
        let mut client = self.connect(region)?;
        let mut outcome = check(&client).await;
        if let Some(other) = outcome.as_ref().err().and_then(named_region).filter(|other| other != region) {
            log::info!("The bucket is in region {other}, not {region}");
            client = self.connect(&other)?;
            outcome = check(&client).await;
        }
        if let Err(error) = outcome {
            return Err(cannot_open(&self.volume, error));
        }
        Ok(S3Store::new(client, self.volume.clone(), Dialect::amazon()))
    }

    /// Opens the volume once its server has answered, by what the server is found to do.
    pub async fn ask(&self) -> Result<S3Store, OpenError> {
        let store = self.look().await?;
        if self.options.endpoint.is_none() {
            return Ok(store);
        }
        let dialect = match probe(&store).await {
            Ok(dialect) => dialect,
            Err(source) => {
                let advice = "The server failed while its abilities were tried out; try again".to_owned();
                return Err(OpenError::Store { volume: store.volume, source, advice });
            }
        };
        log::debug!("Server of {}: {dialect:?}", store.volume);
        if !dialect.unguarded().is_empty() {
            log::warn!(
                "The server ignores preconditions on {}: objects are looked at before they are changed, \
                 which cannot rule out that another writer comes in between",
                dialect.unguarded().join(", ")
            );
        }
        Ok(S3Store::new(store.client, store.volume, dialect))
    }

    /// Opens the volume by what is remembered of its server, else by the least that such a server does.
    pub fn unasked(&self, remembered: Option<ServerFacts>) -> Result<S3Store, OpenError> {
        let least = if self.options.endpoint.is_none() { Dialect::amazon() } else { Dialect::cautious() };
        let (region, dialect) = match remembered {
            Some(facts) => (facts.region, facts.dialect),
            None => (FIRST_REGION.to_owned(), least),
        };
        let client = self.connect(self.options.region.as_deref().unwrap_or(&region))?;
        Ok(S3Store::new(client, self.volume.clone(), dialect))
    }

    fn connect(&self, region: &str) -> Result<S3Client, OpenError> {
        let address =
            Address::new(&self.bucket, &self.prefix, &self.options, region).map_err(OpenError::Options)?;
        Ok(S3Client::new(self.http.clone(), address, region, Arc::clone(&self.login)))
    }
}

/// Names the volume without secrets; keys the cache and the state.
fn volume(bucket: &str, prefix: &str, endpoint: Option<&str>) -> String {
    match endpoint {
        Some(endpoint) => format!("s3://{bucket}/{prefix} at {}", endpoint.trim_end_matches('/')),
        None => format!("s3://{bucket}/{prefix}"),
    }
}

async fn login(options: &S3Options) -> Result<Login, OpenError> {
    let source = match &options.identity {
        Identity::Anonymous => return Ok(Login::Anonymous),
        Identity::Keys(keys) => CredentialSource::fixed(&keys.access_key, &keys.secret_key),
        Identity::Usual | Identity::Profile(_) => CredentialSource::new(options.identity.profile()),
    };
    match source.current().await {
        Ok(_) => Ok(Login::Signed(source)),
        Err(why) => {
            let advice = match options.identity.profile() {
                Some(profile) => format!("Add keys for profile '{profile}' to ~/.aws/credentials"),
                None => "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run `aws configure`, or name a profile; \
                         for a public bucket use --anonymous"
                    .to_owned(),
            };
            Err(OpenError::Credentials(format!("{why}. {advice}")))
        }
    }
}

/// Lists one name, which proves server, bucket, region, clock and credentials at once.
async fn check(client: &S3Client) -> Result<(), CallError> {
    let call = Call::new(Op::Probe, Method::GET, None)
        .query("list-type", "2")
        .query("max-keys", "1")
        .query("prefix", client.address.prefix.clone());
    let mut wait = BACKOFF_FIRST;
    for _ in 1..ATTEMPTS_MAX {
        match client.attempt(&call).await {
            Err(error) if is_passing(&error) => {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            outcome => return outcome.map(drop),
        }
    }
    client.attempt(&call).await.map(drop)
}

fn is_passing(error: &CallError) -> bool {
    match error {
        CallError::NoCredentials(_) => false,
        CallError::Failed(failure) => failure.kind(effect(Op::Probe)).is_retryable(),
        CallError::Refused { refusal, .. } => refusal.kind(Op::Probe).is_retryable(),
    }
}

/// The region a refusal names as the right one.
fn named_region(error: &CallError) -> Option<String> {
    let refusal = error.refusal()?;
    let is_about_region = refusal.status.is_redirection()
        || ["AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"]
            .iter()
            .any(|code| refusal.is(code))
        || refusal.status == http::StatusCode::BAD_REQUEST;
    refusal.region.clone().filter(|_| is_about_region)
}

fn cannot_open(volume: &str, error: CallError) -> OpenError {
    let advice = match &error {
        CallError::NoCredentials(_) => "Check the credentials",
        CallError::Failed(failure) if failure.detail.contains("certificate") => {
            "Add the server's certificate authority to the system's, or name its PEM file in AWS_CA_BUNDLE"
        }
        CallError::Failed(_) => "Check the endpoint, the network and any proxy",
        CallError::Refused { refusal, .. } => match refusal.code.as_deref() {
            Some("NoSuchBucket") => "Create the bucket, or correct its name",
            Some("InvalidAccessKeyId") => {
                "The server does not know this access key: check which credentials are used"
            }
            Some("SignatureDoesNotMatch") => "Check the secret access key",
            Some("ExpiredToken" | "InvalidToken") => "Renew the temporary credentials",
            Some("AccessDenied") | None if refusal.status.as_u16() == 403 => {
                "Check the access key and the secret, and that they may list the bucket (s3:ListBucket)"
            }
            Some("AuthorizationHeaderMalformed" | "PermanentRedirect") => "Set the region of the bucket",
            Some("RequestTimeTooSkewed") => "Set the clock of this machine",
            _ if refusal.status.is_redirection() => "Set the region or the endpoint of the bucket",
            _ if refusal.status.is_server_error() => "The server is in trouble; try again later",
            _ => "Check that the endpoint is an S3 server and the bucket's name is right",
        },
    };
    let source = error.into_error(&Call::new(Op::Probe, Method::GET, None));
    OpenError::Store { volume: volume.to_owned(), source, advice: advice.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::http::refusal::Refusal;
    use http::StatusCode;

    fn refused(status: u16, code: &str, region: &str) -> CallError {
        let body = format!("<Error><Code>{code}</Code><Region>{region}</Region></Error>");
        let refusal = Refusal::read(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        CallError::Refused { refusal, server_time: None }
    }

    #[test]
    fn the_right_region_is_learnt_from_refusals_about_it() {
        assert_eq!(
            named_region(&refused(400, "AuthorizationHeaderMalformed", "garage")).as_deref(),
            Some("garage")
        );
        assert_eq!(
            named_region(&refused(301, "PermanentRedirect", "eu-west-1")).as_deref(),
            Some("eu-west-1")
        );
        assert_eq!(named_region(&refused(403, "AccessDenied", "garage")), None);
        assert_eq!(named_region(&refused(400, "AuthorizationHeaderMalformed", "")), None);
    }

    #[test]
    fn every_refusal_comes_with_advice() {
        for (status, code, advice) in [
            (404, "NoSuchBucket", "Create the bucket"),
            (403, "InvalidAccessKeyId", "does not know this access key"),
            (403, "SignatureDoesNotMatch", "secret access key"),
            (403, "AccessDenied", "s3:ListBucket"),
            (403, "", "s3:ListBucket"),
            (301, "", "region"),
            (500, "", "try again later"),
            (404, "", "is an S3 server"),
        ] {
            let error = cannot_open("s3://b/", refused(status, code, "")).to_string();
            assert!(error.starts_with("cannot open s3://b/: probe: the server answered"), "{error}");
            assert!(error.contains(advice), "{error}");
        }
    }

    #[test]
    fn volumes_are_named_by_server_bucket_and_prefix() {
        assert_eq!(volume("b", "p/", None), "s3://b/p/");
        assert_eq!(volume("b", "", Some("http://h:1/")), "s3://b/ at http://h:1");
    }
}
