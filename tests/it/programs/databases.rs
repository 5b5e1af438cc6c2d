//! git and SQLite, which lock, sync, map and rename, and notice every byte that is not as they left it.

use crate::programs::{Contents, Twins};

#[test]
fn git_commits_clones_collects_and_finds_nothing_broken() {
    git(&mut Twins::new(&["--commit=background"]));
}

pub fn git(twins: &mut Twins<impl Contents>) {
    twins.run(
        r#"git init -q -b main repo; cd repo; git config core.fileMode false
for n in $(seq 20); do seq $n $((n * 30)) > f$n; done
git add .; git commit -qm first
for n in 3 5 7; do echo changed >> f$n; done
git commit -qam second; git mv f1 renamed; git rm -q f2; git commit -qm third
git branch side HEAD~1; git checkout -q side; echo side > only-here; git add .; git commit -qm side
git checkout -q main; git merge -q -m merged side
git log --format=%H; git status --porcelain"#,
    );
    twins.run("git clone -q repo clone; cd clone; git log -1 --format=%H; git fsck --full; ls");
    twins.run("cd repo; git gc -q; git fsck --full; git log -1 --format=%H; git status --porcelain");
    // What it has packed it reads again through a mount that has seen nothing.
    let log =
        "cd repo; git fsck --full; git log -3 --format='%H %s'; git status --porcelain; git show --stat HEAD";
    twins.run(log);
    twins.rig.unmount();
    twins.rig.mount_again();
    twins.run(log);
}

/// A table that is filled, changed and thinned out, in one journal mode.
fn sqlite(mode: &str) -> String {
    format!(
        r#"python3 - <<'P'
import sqlite3
c = sqlite3.connect("db-{mode}", timeout=20)
print(c.execute("PRAGMA journal_mode={mode}").fetchone()[0])
c.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
for n in range(20):
    with c: c.executemany("INSERT INTO t (v) VALUES (?)", [(f"{{n}} {{m}} " * 20,) for m in range(50)])
with c: c.execute("UPDATE t SET v = v || 'more' WHERE k % 7 = 0")
with c: c.execute("DELETE FROM t WHERE k % 3 = 0")
c.execute("VACUUM")
print(c.execute("PRAGMA integrity_check").fetchone()[0], c.execute("SELECT count(*), sum(length(v)) FROM t").fetchone())
c.close()
P
ls"#
    )
}

#[test]
fn sqlite_keeps_its_tables_in_every_journal_mode() {
    every_journal_mode(&mut Twins::new(&["--commit=background"]));
}

pub fn every_journal_mode(twins: &mut Twins<impl Contents>) {
    for mode in ["delete", "truncate", "persist", "memory", "off", "wal"] {
        twins.run(&sqlite(mode));
    }
    let check = r#"python3 - <<'P'
import sqlite3
for mode in ["delete", "truncate", "persist", "memory", "off", "wal"]:
    c = sqlite3.connect(f"db-{mode}", timeout=20)
    print(mode, c.execute("PRAGMA integrity_check").fetchone()[0], c.execute("SELECT count(*), sum(length(v)) FROM t").fetchone())
P"#;
    twins.run(check);
    twins.rig.unmount();
    twins.rig.mount_again();
    twins.run(check);
}

/// Commits numbered rows for ever, and writes down, outside the mount, which commits were answered.
const COUNTER: &str = r#"
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
c.execute("PRAGMA synchronous=FULL")
c.execute("CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v TEXT)")
answered = open(sys.argv[2], "a", buffering=1)
while True:
    c.execute("BEGIN IMMEDIATE")
    last = c.execute("SELECT coalesce(max(k), 0) FROM t").fetchone()[0]
    c.execute("INSERT INTO t VALUES (?, ?)", (last + 1, str(last + 1) * 500))
    c.execute("COMMIT")
    print(last + 1, file=answered)
"#;

const CHECK: &str = r#"
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=20)
assert c.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
rows = c.execute("SELECT k, v FROM t ORDER BY k").fetchall()
assert rows == [(n + 1, str(n + 1) * 500) for n in range(len(rows))]
print(len(rows))
"#;

#[test]
fn sqlite_has_every_transaction_that_was_answered_after_its_program_and_after_the_daemon_were_killed() {
    let mut rig = crate::support::Rig::mounted(&["--commit=background"]);
    let (database, answered) = (rig.path("db"), rig.home().join("answered"));
    let python = |code: &str| {
        let mut command = std::process::Command::new("python3");
        command.arg("-c").arg(code).arg(&database).arg(&answered);
        command
    };
    let answered_so_far = || {
        let text = std::fs::read_to_string(&answered).unwrap_or_default();
        text.lines().last().and_then(|line| line.parse().ok()).unwrap_or(0_u64)
    };
    for round in 0..4 {
        let before = answered_so_far();
        let mut counter = python(COUNTER).stderr(std::process::Stdio::null()).spawn().unwrap();
        crate::support::wait_for(
            "some transactions are answered",
            std::time::Duration::from_secs(30),
            || answered_so_far() > before + 5,
        );
        if round % 2 == 1 {
            rig.kill_leaving_mount();
        }
        counter.kill().unwrap();
        counter.wait().unwrap();
        if round % 2 == 1 {
            rig.clear_mount();
            rig.mount_again();
        }
        let checked = python(CHECK).output().unwrap();
        assert!(checked.status.success(), "round {round}: {}", String::from_utf8_lossy(&checked.stderr));
        let rows: u64 = String::from_utf8_lossy(&checked.stdout).trim().parse().unwrap();
        let safe = answered_so_far();
        assert!(rows == safe || rows == safe + 1, "round {round}: {rows} rows, {safe} answered");
    }
    rig.unmount();
}
