//! `tetherfs serve`: the embedded S3 server over a directory, with the line and the faults one wants to try.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};

use crate::bucket::{Action, Error, Options, Quirks, Rule, Server};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, tell};
use crate::config::parse_time;
use crate::mount::{self, Signals};
use crate::observe::{self, LogOptions};
use crate::types::ByteSize;

/// Shown below the help.
pub const EXAMPLES: &str = "Examples:
  tetherfs serve /tmp/bucket
  tetherfs serve /tmp/bucket --latency 50ms --bandwidth 2MiB       a bad link
  tetherfs serve /tmp/bucket --quirk ignores_put_if_match          like some servers
  tetherfs serve /tmp/bucket --fault '{\"operation\":\"GetObject\",\"times\":3,
      \"action\":{\"kind\":\"cut\",\"side\":\"answer\",\"after\":1000000}}'

It syncs nothing and knows one key pair: it is not for production.";

/// Buckets and keys of a server that was told nothing.
const BUCKET: &str = "demo";
const ACCESS_KEY: &str = "tetherfs";
const SECRET_KEY: &str = "tetherfs-secret";
/// The server takes any; a client must name one.
const REGION: &str = "us-east-1";

/// `tetherfs serve`
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Where buckets are kept; made when absent
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Address to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// A bucket to make when it is not there; can be given several times
    #[arg(long = "bucket", value_name = "NAME", default_value = BUCKET)]
    pub buckets: Vec<String>,
    /// The access key that requests are signed with
    #[arg(long, value_name = "KEY", default_value = ACCESS_KEY)]
    pub access_key: String,
    /// Its secret (others on this machine can see it in the process list)
    #[arg(long, value_name = "SECRET", default_value = SECRET_KEY)]
    pub secret_key: String,
    /// Wait before each request, such as 50ms
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub latency: Option<Duration>,
    /// Most bytes a second in each direction, such as 2MiB
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<ByteSize>,
    /// A deviation of real servers to imitate; can be given several times. A wrong name shows all
    #[arg(long = "quirk", value_name = "NAME[=VALUE]")]
    pub quirks: Vec<String>,
    /// A rule, in JSON, for requests that are to go wrong; can be given several times
    #[arg(long = "fault", value_name = "RULE")]
    pub faults: Vec<String>,
    /// Let other processes change fault rules and read the request log, below /-/, unsigned
    #[arg(long)]
    pub admin: bool,
    /// Least severe log lines shown: off, error, warn, info, debug or trace
    #[arg(long, value_name = "WORD", default_value = "warn", value_parser = log_level)]
    pub log_level: log::LevelFilter,
}

/// Runs the command.
pub fn run(arguments: ServeArguments) -> Result<Exit, Failure> {
    let rules = arguments.faults.iter().map(|text| rule(text)).collect::<Result<Vec<Rule>, Failure>>()?;
    let log = LogOptions { level: arguments.log_level, file: None };
    observe::init_log(&log).map_err(|error| Failure::new(Exit::Failure, error.to_string()))?;
    let welcome = |endpoint: &str| welcome(&arguments, endpoint);
    let options = options(&arguments)?;
    let runtime = mount::runtime().map_err(mount::Error::from)?;
    runtime.block_on(async {
        let mut signals = Signals::catch().map_err(mount::Error::from)?;
        let server = Server::start(options).await.map_err(failure)?;
        for rule in rules {
            server.faults().add(rule);
        }
        output::print(&welcome(&server.endpoint()));
        let name = signals.next().await;
        tell(&format!("{name}: stopping"));
        server.stop().await;
        Ok(Exit::Ok)
    })
}

fn options(arguments: &ServeArguments) -> Result<Options, Failure> {
    let directory = std::path::absolute(&arguments.directory).map_err(mount::Error::from)?;
    if arguments.bandwidth == Some(ByteSize(0)) {
        return Err(
            Failure::new(Exit::Usage, "--bandwidth 0 would never finish").hint("leave it away for no limit")
        );
    }
    if arguments.access_key.is_empty() || arguments.secret_key.is_empty() {
        return Err(Failure::new(Exit::Usage, "neither --access-key nor --secret-key may be empty")
            .hint("leave them away for the usual ones"));
    }
    Ok(Options {
        listen: arguments.listen,
        access_key: arguments.access_key.clone(),
        secret_key: arguments.secret_key.clone(),
        buckets: arguments.buckets.clone(),
        quirks: quirks(&arguments.quirks)?,
        latency: arguments.latency.unwrap_or_default(),
        bandwidth: arguments.bandwidth.map(|size| size.0),
        admin: arguments.admin,
        ..Options::new(&directory)
    })
}

fn log_level(word: &str) -> Result<log::LevelFilter, String> {
    word.parse().map_err(|_| "it is one of off, error, warn, info, debug and trace".to_owned())
}

/// Quirks by the names of their fields; a name alone switches one on.
fn quirks(given: &[String]) -> Result<Quirks, Failure> {
    let mut fields = Map::new();
    for text in given {
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        fields.insert(name.replace('-', "_"), value);
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| {
        Failure::new(Exit::Usage, format!("--quirk: {error}"))
            .hint("write NAME, NAME=true, NAME=false or NAME=NUMBER")
    })
}

fn rule(text: &str) -> Result<Rule, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Usage, format!("--fault: {why}"))
            .hint(r#"such as: {"operation":"GetObject","times":1,"action":{"kind":"reset"}}"#)
    };
    let rule: Rule = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    match rule.action {
        Action::Status { code, .. } if !(400..600).contains(&code) => {
            Err(wrong(&format!("{code} is no status of an error, which are 400 to 599")))
        }
        _ => Ok(rule),
    }
}

fn failure(error: Error) -> Failure {
    match &error {
        Error::Listen { .. } => Failure::new(Exit::Failure, error.to_string())
            .hint("another server may be there: choose a port with --listen 127.0.0.1:PORT, 0 takes any"),
        Error::BucketName { .. } => Failure::new(Exit::Usage, error.to_string()),
        Error::Busy { .. } => Failure::new(Exit::StateInUse, error.to_string()),
        Error::Directory { .. } | Error::Content { .. } => Failure::new(Exit::Failure, error.to_string()),
    }
}

/// What to type to use the server.
fn welcome(arguments: &ServeArguments, endpoint: &str) -> String {
    let secret = if arguments.secret_key == SECRET_KEY { SECRET_KEY } else { "(your secret)" };
    let mounts: Vec<String> = arguments
        .buckets
        .iter()
        .map(|bucket| {
            format!(
                "  mkdir -p ~/{bucket} && tetherfs mount s3://{bucket} ~/{bucket} \
                 --endpoint {endpoint} --region {REGION}"
            )
        })
        .collect();
    format!(
        "Serving {} at {endpoint}\nFor trying and testing, not for production. Ctrl-C stops.\n\n\
         In another terminal:\n  export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY='{secret}'\n{}",
        output::path(&arguments.directory),
        arguments.access_key,
        mounts.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parsed(words: &[&str]) -> ServeArguments {
        let words = ["tetherfs", "serve", "/d"].into_iter().chain(words.iter().copied());
        match crate::cli::args::Arguments::try_parse_from(words).unwrap().command {
            crate::cli::args::Command::Serve(serve) => serve,
            other => panic!("not serve: {other:?}"),
        }
    }

    #[test]
    fn switches_become_options() {
        let arguments = parsed(&[
            "--bucket",
            "one",
            "--bucket",
            "two",
            "--latency",
            "50ms",
            "--bandwidth",
            "2M",
            "--listen",
            "127.0.0.1:0",
            "--quirk",
            "hides-md5",
            "--quirk",
            "part_bytes_min=0",
            "--admin",
        ]);
        let options = options(&arguments).unwrap();
        assert_eq!(options.buckets, ["one", "two"]);
        assert_eq!(options.latency, Duration::from_millis(50));
        assert_eq!(options.bandwidth, Some(2 << 20));
        assert!(options.quirks.hides_md5 && options.quirks.part_bytes_min == 0 && options.admin);
        assert!(!options.quirks.copies_no_parts);
    }

    #[test]
    fn wrong_quirks_and_faults_show_what_there_is() {
        let failure = quirks(&["hides_md6".to_owned()]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("hides_md5"), "{}", failure.message);
        assert!(quirks(&["hides_md5=maybe".to_owned()]).is_err());
        assert!(rule(r#"{"operation":"GetObject","times":1,"action":{"kind":"reset"}}"#).is_ok());
        let failure = rule(r#"{"action":{"kind":"status","code":9}}"#).unwrap_err();
        assert!(failure.message.contains("400 to 599"), "{}", failure.message);
        assert_eq!(
            options(&parsed(&["--access-key", ""])).err().map(|failure| failure.exit),
            Some(Exit::Usage)
        );
        assert_eq!(rule("{}").unwrap_err().exit, Exit::Usage);
        assert_eq!(rule(r#"{"action":{"kind":"explode"}}"#).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn the_welcome_can_be_pasted_and_hides_a_chosen_secret() {
        let text = welcome(&parsed(&[]), "http://127.0.0.1:9000");
        assert!(text.contains("AWS_SECRET_ACCESS_KEY='tetherfs-secret'"), "{text}");
        assert!(text.contains("tetherfs mount s3://demo ~/demo --endpoint http://127.0.0.1:9000"), "{text}");
        let text = welcome(&parsed(&["--secret-key", "hunter2", "--bucket", "b"]), "http://h");
        assert!(!text.contains("hunter2") && text.contains("s3://b ~/b"), "{text}");
    }
}
