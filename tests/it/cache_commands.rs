//! `tetherfs cache` on real mounts: what each command does to the disk and how many requests it costs.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tetherfs::bucket::{Action, Operation, Rule};

use crate::support::{Ran, Rig, forget_pages, pattern, run, sha256, wait_for};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const CHUNK: u64 = 256 << 10;

/// Runs `tetherfs cache ACTION --json PATHS` and reads its answer.
pub(crate) fn cache(rig: &Rig, code: i32, words: &[&str], paths: &[&str]) -> Value {
    let ran = cache_text(rig, &[words, &["--json"]].concat(), paths);
    assert_eq!(ran.code, Some(code), "{words:?} {paths:?}: {}{}\n{}", ran.out, ran.err, rig.log());
    serde_json::from_str(&ran.out).unwrap()
}

fn cache_text(rig: &Rig, words: &[&str], paths: &[&str]) -> Ran {
    let mut command = rig.command();
    command.arg("cache").args(words).args(paths.iter().map(|path| rig.path(path)));
    run(&mut command)
}

/// `tetherfs cache stat` of one file or directory.
fn stat(rig: &Rig, path: &str) -> Value {
    cache(rig, 0, &["stat"], &[path])["paths"][0].clone()
}

/// `tetherfs cache stat` of the mount.
fn numbers(rig: &Rig) -> Value {
    cache(rig, 0, &["stat"], &[""])["caches"][0].clone()
}

/// Bytes of objects that the bucket has sent, and in how many answers.
fn fetched(rig: &Rig) -> (u64, u64) {
    let count = rig.bucket.requests().count(Operation::GetObject);
    (count.sent, count.requests)
}

/// Reads a file, not from the kernel's pages.
fn read(rig: &Rig, name: &str, expected: &[u8]) {
    let mut file = fs::File::open(rig.path(name)).unwrap();
    forget_pages(&file);
    let mut seen = Vec::new();
    file.read_to_end(&mut seen).unwrap();
    assert_eq!(sha256(&seen), sha256(expected), "{name}");
}

/// Bytes that files of this kind take on disk below a folder.
fn disk_bytes(folder: &Path, suffix: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    files_below(folder, suffix).iter().map(|path| fs::metadata(path).unwrap().blocks() * 512).sum()
}

fn files_below(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files_below(&path, suffix)),
            false if path.to_string_lossy().ends_with(suffix) => found.push(path),
            false => {}
        }
    }
    found
}

fn cache_directory(rig: &Rig) -> PathBuf {
    rig.home().join("cache")
}

fn with_cache(rig: &Rig, size: &str, more: &[&str]) -> Vec<String> {
    let mut options =
        vec![format!("--cache-dir={}", cache_directory(rig).display()), format!("--cache-size={size}")];
    options.extend(["--cache-free=0"].iter().chain(more).map(|&option| option.to_owned()));
    options
}

fn mount(rig: &mut Rig, size: &str, more: &[&str]) {
    let options = with_cache(rig, size, more);
    rig.mount(&options.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn warm_fetches_just_what_is_missing_and_reading_costs_nothing_then() {
    let mut rig = Rig::new();
    let files = [("dir/a", 3 * MIB + 5), ("dir/sub/b", 700 * KIB), ("dir/empty", 0), ("other", MIB)];
    let bytes: Vec<Vec<u8>> = files.iter().map(|(name, len)| pattern(name.len() as u64, *len)).collect();
    for ((name, _), bytes) in files.iter().zip(&bytes) {
        rig.bucket.put(name, bytes);
    }
    mount(&mut rig, "64MiB", &[]);
    read(&rig, "dir/sub/b", &bytes[1]);
    rig.bucket.requests().reset();

    let warmed = &cache(&rig, 0, &["warm"], &["dir", "dir/a"])[0];
    assert_eq!((&warmed["files"], &warmed["whole_files"]), (&3.into(), &3.into()), "{warmed}");
    assert_eq!(warmed["fetched_bytes"], bytes[0].len(), "what was read before is not fetched again");
    assert_eq!((&warmed["bytes"], &warmed["kept_bytes"]), (&warmed["kept_bytes"], &warmed["bytes"]));
    assert_eq!(fetched(&rig).0, bytes[0].len() as u64);
    assert!(rig.bucket.count(Operation::HeadObject) <= 2, "for the paths named; listings tell the rest");

    rig.bucket.requests().reset();
    let again = &cache(&rig, 0, &["warm"], &["dir"])[0];
    assert_eq!(again["fetched_bytes"], 0);
    for ((name, _), bytes) in files.iter().zip(&bytes).take(3) {
        read(&rig, name, bytes);
    }
    assert_eq!(fetched(&rig), (0, 0), "all of it came from the cache");

    let whole = stat(&rig, "dir/a");
    assert_eq!(
        (&whole["cached_bytes"], &whole["is_whole"]),
        (&bytes[0].len().into(), &true.into()),
        "{whole}"
    );
    let other = stat(&rig, "other");
    assert_eq!((&other["cached_bytes"], &other["is_whole"]), (&0.into(), &false.into()), "{other}");
    let directory = stat(&rig, "dir");
    assert_eq!((&directory["files"], &directory["whole_files"]), (&3.into(), &3.into()), "{directory}");
    let all = numbers(&rig);
    assert_eq!((&all["objects"], &all["is_keeping"]), (&2.into(), &true.into()), "{all}");
    let on_disk = disk_bytes(&cache_directory(&rig), ".data");
    assert!(on_disk >= bytes[0].len() as u64 && on_disk <= all["bytes"].as_u64().unwrap(), "{on_disk} {all}");
    let text = cache_text(&rig, &["stat"], &["dir/a", "dir/sub/b", "other"]).out;
    assert!(text.contains("whole") && text.contains("none"), "{text}");
}

#[test]
fn many_small_files_cost_one_request_each() {
    let mut rig = Rig::new();
    for number in 0..300 {
        rig.bucket.put_quietly(&format!("many/{number:03}"), &pattern(number, 2000));
    }
    mount(&mut rig, "64MiB", &[]);
    rig.bucket.requests().reset();
    let warmed = &cache(&rig, 0, &["warm"], &["many"])[0];
    assert_eq!((&warmed["files"], &warmed["fetched_bytes"]), (&300.into(), &600_000.into()));
    assert_eq!(fetched(&rig), (600_000, 300));
    assert!(rig.bucket.count(Operation::HeadObject) <= 1, "{}", rig.bucket.count(Operation::HeadObject));
}

#[test]
fn warm_goes_on_after_a_killed_daemon_with_what_is_missing() {
    let mut rig = Rig::new();
    let bytes = pattern(7, 24 * MIB);
    rig.bucket.put("large", &bytes);
    let slow = ["--request-size=1MiB", "--prefetch=2MiB"];
    mount(&mut rig, "64MiB", &slow);
    rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Bandwidth { bytes_per_s: 8 << 20 }));
    rig.bucket.requests().reset();
    let mut warming = rig.command();
    warming.args(["cache", "warm"]).arg(rig.path("large")).stdin(Stdio::null());
    let mut warming = warming.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("half of it has come", Duration::from_secs(60), || {
        fetched(&rig).0 >= 12 * MIB as u64 && disk_bytes(&cache_directory(&rig), ".data") >= 11 * MIB as u64
    });
    rig.kill();
    let code = warming.wait().unwrap().code();
    let mut told = String::new();
    std::io::Read::read_to_string(&mut warming.stderr.take().unwrap(), &mut told).unwrap();
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("the mount has gone") && told.contains("what was done stays"), "{told}");

    rig.bucket.faults().clear();
    rig.mount_again();
    let kept = stat(&rig, "large")["cached_bytes"].as_u64().unwrap();
    assert!((11 * MIB as u64..24 * MIB as u64).contains(&kept), "{kept}");
    rig.bucket.requests().reset();
    let warmed = &cache(&rig, 0, &["warm"], &["large"])[0];
    assert_eq!(warmed["fetched_bytes"].as_u64(), Some(bytes.len() as u64 - kept));
    assert_eq!(fetched(&rig).0, bytes.len() as u64 - kept, "not a byte is fetched twice");
    rig.bucket.requests().reset();
    read(&rig, "large", &bytes);
    assert_eq!(fetched(&rig), (0, 0));
}

#[test]
fn warm_is_stopped_by_an_interrupt_and_goes_on_from_there() {
    let mut rig = Rig::new();
    let bytes = pattern(8, 16 * MIB);
    rig.bucket.put("large", &bytes);
    mount(&mut rig, "64MiB", &["--request-size=1MiB", "--prefetch=2MiB"]);
    rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Bandwidth { bytes_per_s: 2 << 20 }));
    let mut warming = rig.command();
    warming.args(["cache", "warm"]).arg(rig.path("large")).stdin(Stdio::null()).stderr(Stdio::piped());
    let warming = warming.spawn().unwrap();
    wait_for("something has come", Duration::from_secs(60), || {
        disk_bytes(&cache_directory(&rig), ".data") >= 2 * MIB as u64
    });
    crate::support::run_ok(Command::new("kill").args(["-s", "INT", &warming.id().to_string()]));
    let ended = warming.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("stopped before it was done"), "{told}");
    wait_for("no request goes on", Duration::from_secs(10), || {
        rig.status()["metrics"]["requests_in_flight"] == 0
    });
    rig.bucket.faults().clear();
    let kept = stat(&rig, "large")["cached_bytes"].as_u64().unwrap();
    assert!(kept >= 2 * MIB as u64 && kept < 16 * MIB as u64, "{kept}");
    let warmed = &cache(&rig, 0, &["warm"], &["large"])[0];
    assert_eq!(warmed["fetched_bytes"].as_u64(), Some(bytes.len() as u64 - kept));
}

#[test]
fn a_mount_ends_while_its_cache_is_being_filled() {
    let mut rig = Rig::new();
    rig.bucket.put("large", &pattern(18, 16 * MIB));
    mount(&mut rig, "64MiB", &["--request-size=1MiB", "--prefetch=2MiB"]);
    rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Bandwidth { bytes_per_s: 1 << 20 }));
    let mut warming = rig.command();
    warming.args(["cache", "warm"]).arg(rig.path("large")).stdin(Stdio::null()).stderr(Stdio::piped());
    let warming = warming.spawn().unwrap();
    wait_for("something has come", Duration::from_secs(60), || {
        disk_bytes(&cache_directory(&rig), ".data") >= MIB as u64
    });
    let begun = std::time::Instant::now();
    rig.unmount();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let ended = warming.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(matches!(ended.status.code(), Some(1 | 4)), "{told}");
    assert!(told.contains("what was done stays"), "{told}");
}

#[test]
fn what_does_not_fit_is_said_and_not_fetched() {
    let mut rig = Rig::new();
    for name in ["a", "b", "c"] {
        rig.bucket.put(&format!("dir/{name}"), &pattern(9, 3 * MIB));
    }
    mount(&mut rig, "4MiB", &["--prefetch=1MiB", "--request-size=1MiB"]);
    rig.bucket.requests().reset();
    let ran = cache_text(&rig, &["warm"], &["dir"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("3 MiB of 9 MiB kept") && ran.err.contains("limited to 4 MiB"), "{}", ran.err);
    assert_eq!(ran.err.matches("there is no room for it").count(), 2, "{}", ran.err);
    assert_eq!(fetched(&rig).0, 3 * MIB as u64, "nothing is fetched to be thrown away");
    assert_eq!(stat(&rig, "dir")["whole_files"], 1);
    let again = &cache(&rig, 1, &["warm"], &["dir"])[0];
    assert_eq!((&again["fetched_bytes"], &again["no_room"]["count"]), (&0.into(), &2.into()), "{again}");
}

#[test]
fn pinned_files_stay_through_pressure_remounts_and_new_versions() {
    let mut rig = Rig::new();
    let (first, second) = (pattern(10, 2 * MIB), pattern(11, 2 * MIB + 7));
    rig.bucket.put("keep/pinned", &first);
    let others = pattern(12, 12 * MIB);
    rig.bucket.put("others", &others);
    mount(&mut rig, "8MiB", &[]);
    let pinned = &cache(&rig, 0, &["pin"], &["keep"])[0];
    assert_eq!(
        (&pinned["pins"][0], &pinned["warmed"]["whole_files"]),
        (&"keep/".into(), &1.into()),
        "{pinned}"
    );
    rig.unmount();
    rig.mount_again();
    let pins = cache(&rig, 0, &["pins"], &[""]);
    assert_eq!(pins[0]["path"], rig.path("keep/").to_str().unwrap(), "{pins}");

    let under_pressure = |expected: &[u8]| {
        read(&rig, "others", &others);
        let there = stat(&rig, "keep/pinned");
        assert_eq!((&there["is_whole"], &there["is_pinned"]), (&true.into(), &true.into()), "{there}");
        rig.bucket.requests().reset();
        read(&rig, "keep/pinned", expected);
        assert_eq!(fetched(&rig), (0, 0));
    };
    under_pressure(&first);
    rig.bucket.put("keep/pinned", &second);
    std::thread::sleep(Duration::from_millis(1200));
    read(&rig, "keep/pinned", &second);
    under_pressure(&second);

    let evicted = &cache(&rig, 1, &["evict"], &["keep"])[0];
    assert_eq!(evicted["pinned"]["named"][0]["path"], "keep/pinned", "{evicted}");
    assert_eq!(evicted["bytes"], 0);
    let purged = &cache(&rig, 0, &["purge", "--yes"], &[""])[0];
    assert_eq!(purged["pinned_objects"], 1, "{purged}");
    assert_eq!(stat(&rig, "keep/pinned")["is_whole"], true);
    assert_eq!(stat(&rig, "others")["cached_bytes"], 0);

    let held = cache_text(&rig, &["unpin"], &["keep/pinned"]);
    assert_eq!(held.code, Some(1), "{}", held.err);
    assert!(held.err.contains("stays pinned, because"), "{}", held.err);
    let evicted = &cache(&rig, 0, &["evict", "--pinned"], &["keep"])[0];
    assert!(evicted["bytes"].as_u64() >= Some(second.len() as u64), "{evicted}");
    assert_eq!(stat(&rig, "keep/pinned")["cached_bytes"], 0);
    cache(&rig, 0, &["pin"], &["keep/pinned"]);
    let unpinned = &cache(&rig, 0, &["unpin"], &["keep"])[0];
    assert_eq!(unpinned["removed"].as_array().map(Vec::len), Some(2), "{unpinned}");
    assert_eq!(cache(&rig, 0, &["pins"], &[""]), Value::Array(Vec::new()));
    read(&rig, "others", &others);
    let there = stat(&rig, "keep/pinned");
    assert_eq!((&there["is_whole"], &there["is_pinned"]), (&false.into(), &false.into()), "{there}");
}

#[test]
fn a_pin_without_warming_fetches_nothing_and_unpin_all_takes_all_back() {
    let mut rig = Rig::new();
    rig.bucket.put("file", &pattern(13, MIB));
    mount(&mut rig, "8MiB", &[]);
    rig.bucket.requests().reset();
    let pinned = &cache(&rig, 0, &["pin", "--no-warm"], &["file", ""])[0];
    assert_eq!(pinned["pins"], serde_json::json!(["file", "/"]), "{pinned}");
    assert_eq!(pinned["warmed"], Value::Null);
    assert_eq!(fetched(&rig), (0, 0));
    assert_eq!(numbers(&rig)["pins"], 2);
    let mountpoint = rig.mountpoint();
    let ran = rig.tetherfs(&["cache", "unpin", "--all", mountpoint.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.err.matches("no longer pinned").count(), 2, "{}", ran.err);
    assert_eq!(numbers(&rig)["pins"], 0);
    let ran = cache_text(&rig, &["unpin"], &["file"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("was not pinned"), "{}", ran.err);
}

#[test]
fn what_is_evicted_is_fetched_again_and_what_is_purged_too() {
    let mut rig = Rig::new();
    let bytes = pattern(14, 2 * MIB);
    rig.bucket.put("a", &bytes);
    rig.bucket.put("b", &bytes);
    mount(&mut rig, "64MiB", &[]);
    cache(&rig, 0, &["warm"], &["a", "b"]);
    let evicted = &cache(&rig, 0, &["evict"], &["a"])[0];
    assert_eq!(evicted["files"], 1, "{evicted}");
    assert!(evicted["bytes"].as_u64() >= Some(bytes.len() as u64), "{evicted}");
    assert!(disk_bytes(&cache_directory(&rig), ".data") < 3 * MIB as u64);
    rig.bucket.requests().reset();
    read(&rig, "b", &bytes);
    assert_eq!(fetched(&rig).0, 0);
    read(&rig, "a", &bytes);
    assert_eq!(fetched(&rig).0, bytes.len() as u64);

    let mountpoint = rig.mountpoint();
    let unasked = rig.tetherfs(&["cache", "purge", mountpoint.to_str().unwrap()]);
    assert_eq!(unasked.code, Some(2), "{}", unasked.err);
    assert!(unasked.err.contains("nobody can be asked") && unasked.err.contains("--yes"), "{}", unasked.err);
    assert_eq!(numbers(&rig)["objects"], 2);
    let purged = &cache(&rig, 0, &["purge", "--yes"], &[""])[0];
    assert_eq!(purged["objects"], 2, "{purged}");
    assert_eq!(disk_bytes(&cache_directory(&rig), ".data"), 0);
    let all = numbers(&rig);
    assert_eq!((&all["objects"], &all["bytes"]), (&0.into(), &0.into()), "{all}");
    read(&rig, "b", &bytes);
}

#[test]
fn verify_finds_a_flipped_byte_and_repair_heals_it() {
    let mut rig = Rig::new();
    let bytes = pattern(15, 4 * MIB);
    rig.bucket.put("file", &bytes);
    mount(&mut rig, "64MiB", &[]);
    cache(&rig, 0, &["warm"], &["file"]);
    let good = &cache(&rig, 0, &["verify"], &[""])[0];
    assert_eq!((&good["chunks"], &good["damaged_chunks"]), (&(bytes.len() as u64 / CHUNK).into(), &0.into()));
    assert_eq!((&good["bytes"], &good["is_complete"]), (&bytes.len().into(), &true.into()), "{good}");
    rig.unmount();
    let data = files_below(&cache_directory(&rig), ".data");
    let file = fs::OpenOptions::new().write(true).open(&data[0]).unwrap();
    let at = 1_000_000;
    std::os::unix::fs::FileExt::write_all_at(&file, &[!bytes[at]], at as u64).unwrap();
    drop(file);
    let directory = cache_directory(&rig);
    let unmounted = ["cache", "verify", "--json", "--cache-dir", directory.to_str().unwrap()];
    let ran = rig.tetherfs(&unmounted);
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    let found = &serde_json::from_str::<Value>(&ran.out).unwrap()[0];
    assert!(found["volume"].as_str().unwrap().contains(crate::support::BUCKET), "{found}");
    assert_eq!((&found["damaged_chunks"], &found["removed_chunks"]), (&1.into(), &0.into()), "{found}");
    rig.mount_again();
    let mounted = rig.tetherfs(&unmounted);
    assert_eq!(mounted.code, Some(1), "{}{}", mounted.out, mounted.err);
    assert!(mounted.err.contains("has the cache of this volume"), "{}", mounted.err);
    let ran = cache_text(&rig, &["verify"], &[""]);
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("damaged: 1 chunk") && ran.out.contains("--repair"), "{}", ran.out);
    let mended = &cache(&rig, 0, &["verify", "--repair"], &[""])[0];
    assert_eq!((&mended["damaged_chunks"], &mended["removed_chunks"]), (&1.into(), &1.into()), "{mended}");
    assert_eq!(cache(&rig, 0, &["verify"], &[""])[0]["damaged_chunks"], 0);
    rig.bucket.requests().reset();
    read(&rig, "file", &bytes);
    assert_eq!(fetched(&rig).0, CHUNK, "just the damaged chunk is fetched again");
}

#[test]
fn files_with_local_changes_are_left_out_and_named() {
    let mut rig = Rig::new();
    let bytes = pattern(16, MIB);
    rig.bucket.put("dir/old", &bytes);
    mount(&mut rig, "64MiB", &["--commit=background"]);
    let refused = Action::Status { code: 503, error: None, retry_after_s: None };
    rig.bucket.faults().add(Rule::on(Operation::PutObject, refused));
    fs::write(rig.path("dir/new"), "not there yet").unwrap();
    let warmed = &cache(&rig, 0, &["warm"], &["dir"])[0];
    assert_eq!((&warmed["files"], &warmed["whole_files"]), (&1.into(), &1.into()), "{warmed}");
    assert_eq!(warmed["changed"]["named"][0]["path"], "dir/new", "{warmed}");
    assert_eq!(stat(&rig, "dir")["changed_files"], 1);
    let evicted = &cache(&rig, 1, &["evict"], &["dir"])[0];
    assert_eq!((&evicted["files"], &evicted["changed"]["count"]), (&1.into(), &1.into()), "{evicted}");
    rig.bucket.faults().clear();
    wait_for("it is uploaded", Duration::from_secs(60), || rig.bucket.get("dir/new").is_some());
    wait_for("it counts as a file of the bucket", Duration::from_secs(10), || {
        stat(&rig, "dir")["changed_files"] == 0
    });
}

#[test]
fn paths_are_found_by_whatever_way_and_refused_outside() {
    let mut rig = Rig::new();
    rig.bucket.put("dir/file", &pattern(17, 10 * KIB));
    mount(&mut rig, "8MiB", &[]);
    std::os::unix::fs::symlink(rig.mountpoint(), rig.home().join("link")).unwrap();
    let by = |directory: &Path, path: &str| {
        let ran = run(rig.command().current_dir(directory).args(["cache", "stat", "--json", path]));
        assert_eq!(ran.code, Some(0), "{path}: {}", ran.err);
        let answer: Value = serde_json::from_str(&ran.out).unwrap();
        answer["paths"][0]["path"].as_str().unwrap().to_owned()
    };
    let expected = rig.path("dir/file").canonicalize().unwrap().to_str().unwrap().to_owned();
    assert_eq!(by(&rig.path("dir"), "file"), expected);
    assert_eq!(by(&rig.path("dir"), "../dir/./file"), expected);
    assert_eq!(by(rig.home(), "link/dir/file"), expected);
    assert_eq!(by(Path::new("/"), &expected), expected);

    for (path, code, part) in [
        ("/etc/passwd", 4, "'/etc/passwd' is not in a tetherfs mount"),
        (rig.home().to_str().unwrap(), 4, "is not in a tetherfs mount"),
        (rig.path("dir/absent").to_str().unwrap(), 1, "'dir/absent': no such file"),
        (rig.path("dir/file/below").to_str().unwrap(), 1, "not a directory"),
    ] {
        for action in ["stat", "warm", "pin", "evict"] {
            let ran = rig.tetherfs(&["cache", action, path]);
            assert_eq!(ran.code, Some(code), "{action} {path}: {}", ran.err);
            assert!(
                ran.err.starts_with("tetherfs: ") && ran.err.contains(part),
                "{action} {path}: {}",
                ran.err
            );
        }
    }
    let odd = rig.mountpoint().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    let ran = run(rig.command().args(["cache", "warm"]).arg(odd));
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("not UTF-8"), "{}", ran.err);
    assert_eq!(cache(&rig, 0, &["pins"], &[""]), Value::Array(Vec::new()), "nothing was pinned on the way");
}

#[test]
fn a_mount_without_a_cache_says_so() {
    let mut rig = Rig::new();
    rig.bucket.put("file", b"data");
    mount(&mut rig, "0", &[]);
    for action in [&["warm"][..], &["pin"], &["evict"], &["verify"], &["purge", "--yes"]] {
        let path = if action.len() == 2 || action[0] == "verify" { "" } else { "file" };
        let ran = cache_text(&rig, action, &[path]);
        assert_eq!(ran.code, Some(1), "{action:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains("--cache-size is 0"), "{action:?}: {}", ran.err);
    }
    assert_eq!(stat(&rig, "file")["cached_bytes"], 0);
    let text = cache_text(&rig, &["stat"], &[""]).out;
    assert!(text.contains("keeps nothing new: --cache-size is 0"), "{text}");
}
