//! How editors, loggers and media tools change files.

use crate::programs::{Contents, Twins};

#[test]
fn editors_replace_files_without_a_moment_in_which_there_is_none() {
    editors(&mut Twins::new(&[]));
}

pub fn editors(twins: &mut Twins<impl Contents>) {
    twins.run("for n in $(seq 200); do echo line $n; done > text");
    // As vim does it: a backup, a new file of the name, the backup removed.
    twins.run("mv text text~; { cat text~; echo added; } > text; sync text; rm text~; tail -n1 text");
    twins.run("sed -i 's/line 7$/seven/' text; grep -n seven text");
    twins.run(
        r#"python3 - <<'P'
import os, tempfile
for n in range(5):
    with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as f:
        f.write(f"version {n}\n" * 1000); f.flush(); os.fsync(f.fileno())
    os.replace(f.name, "replaced")
    assert open("replaced").read() == f"version {n}\n" * 1000
P
ls"#,
    );
    twins.compare();
}

#[test]
fn two_writers_append_to_one_log() {
    two_writers(&mut Twins::new(&["--commit=background"]));
}

pub fn two_writers(twins: &mut Twins<impl Contents>) {
    twins.run(
        r#"append() { python3 - "$1" <<'P'
import os, sys
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for n in range(300): os.write(log, f"{sys.argv[1]} {n}\n".encode())
os.close(log)
P
}
append a & append b & wait
wc -l < log; grep '^a ' log | md5sum; grep '^b ' log | md5sum; sort log > sorted; rm log"#,
    );
    twins.compare();
}

#[test]
fn a_header_is_patched_when_all_is_written() {
    header(&mut Twins::new(&["--part-size=5M"]));
}

pub fn header(twins: &mut Twins<impl Contents>) {
    twins.run(
        r#"python3 - <<'P'
with open("film", "wb") as f:
    f.write(b"\0" * 64)
    for n in range(12): f.write(bytes([n]) * (1 << 20))
    end = f.tell()
    f.seek(0); f.write(b"header of " + str(end).encode())
P
head -c 20 film; md5sum film"#,
    );
    twins.compare();
}

#[test]
fn mapped_pages_are_written() {
    let mut twins = Twins::new(&[]);
    twins.run(
        r#"head -c 1000000 /dev/zero > mapped
python3 - <<'P'
import mmap
with open("mapped", "r+b") as f:
    with mmap.mmap(f.fileno(), 0) as m:
        for at in range(0, 1000000, 5000): m[at:at + 5] = b"%05d" % (at // 5000)
        m.flush()
        assert m[5000:5005] == b"00001"
P
md5sum mapped"#,
    );
    twins.compare();
}
