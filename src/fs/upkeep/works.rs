//! Looking, evicting, checking, emptying.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::fs::FileSystem;
use crate::fs::upkeep::jobs::Meter;
use crate::fs::upkeep::paths::Subject;
use crate::fs::upkeep::{CacheNumbers, EvictReport, Outcome, PathReport, PurgeReport, Stage, WorkError};
use crate::namespace::FileKind;
use crate::observe::task;
use crate::read::{self, Evicted, Kept, ObjectReport, Repair};
use crate::types::ObjectId;

impl FileSystem {
    pub(super) async fn look_at(
        self: &Arc<Self>,
        paths: &[String],
        meter: &Arc<Meter>,
    ) -> Result<Outcome, WorkError> {
        let mut reports = Vec::with_capacity(paths.len());
        for found in self.find_all(paths).await? {
            let subjects = self.subjects_of(&found, meter).await?;
            let mut report = PathReport {
                path: found.path.clone(),
                is_directory: found.kind == FileKind::Directory,
                files: subjects.len() as u64,
                ..PathReport::default()
            };
            let mut objects = Vec::with_capacity(subjects.len());
            for subject in subjects {
                match subject {
                    Subject::Object(object) => objects.push(object),
                    Subject::Changed(_) => report.changed_files += 1,
                }
            }
            for object in self.reports(&Arc::new(objects), meter).await? {
                report.bytes += object.size;
                report.cached_bytes += object.bytes_present;
                report.whole_files += u64::from(object.is_whole);
                report.pinned_files += u64::from(object.is_pinned);
            }
            reports.push(report);
        }
        Ok(Outcome::Looked { paths: reports })
    }

    pub(super) async fn evict(
        self: &Arc<Self>,
        paths: &[String],
        pinned_too: bool,
        meter: &Arc<Meter>,
    ) -> Result<Outcome, WorkError> {
        self.cache_in_use().await?;
        let subjects = self.subjects(paths, meter).await?;
        meter.update(|progress| progress.stage = Stage::Working);
        let (reader, meter) = (self.reader.clone(), meter.clone());
        let evicting = task::spawn_blocking("cache-evict", move || {
            let mut report = EvictReport::default();
            for subject in subjects {
                if meter.is_stopped() {
                    break;
                }
                meter.update(|progress| progress.files += 1);
                match subject {
                    Subject::Object(object) => {
                        evict(&reader, &object, pinned_too, &mut report);
                        meter.update(|progress| progress.bytes += object.size);
                    }
                    Subject::Changed(key) => report.changed.add(key.as_str(), "its changes need it"),
                }
            }
            report
        });
        Ok(Outcome::Evicted(evicting.await.map_err(|_| WorkError::CutOff)?))
    }

    pub(super) async fn verify(
        self: &Arc<Self>,
        repair: bool,
        meter: &Arc<Meter>,
    ) -> Result<Outcome, WorkError> {
        let numbers = self.cache_in_use().await?;
        meter.update(|progress| {
            progress.stage = Stage::Working;
            progress.files_total = numbers.objects;
            progress.bytes_total = numbers.bytes;
        });
        let repair = if repair { Repair::TakeOff } else { Repair::Nothing };
        let (reader, meter) = (self.reader.clone(), meter.clone());
        let verifying = task::spawn_blocking("cache-verify", move || {
            reader.verify(repair, &mut |so_far| {
                meter.update(|progress| {
                    progress.files_total = so_far.objects;
                    progress.files = so_far.objects_done;
                    progress.bytes = so_far.bytes_done;
                });
                if meter.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        Ok(Outcome::Verified(verifying.await.map_err(|_| WorkError::CutOff)?.into()))
    }

    pub(super) async fn purge(self: &Arc<Self>, meter: &Arc<Meter>) -> Result<Outcome, WorkError> {
        self.cache_in_use().await?;
        meter.update(|progress| progress.stage = Stage::Working);
        let reader = self.reader.clone();
        let purging = task::spawn_blocking("cache-purge", move || reader.purge());
        let purged = purging.await.map_err(|_| WorkError::CutOff)?;
        Ok(Outcome::Purged(PurgeReport {
            objects: purged.objects,
            bytes: purged.bytes,
            in_use_objects: purged.in_use_objects,
            in_use_bytes: purged.in_use_bytes,
            pinned_objects: purged.pinned_objects,
            pinned_bytes: purged.pinned_bytes,
            failed_objects: purged.failed_objects,
            failure: purged.failure,
        }))
    }

    /// The numbers of a cache that there is. One that keeps nothing new for the moment can still be worked on.
    pub(super) async fn cache_in_use(self: &Arc<Self>) -> Result<CacheNumbers, WorkError> {
        let fs = self.clone();
        let numbers = task::spawn_blocking("cache-report", move || fs.cache_numbers()).await;
        match numbers.map_err(|_| WorkError::CutOff)? {
            CacheNumbers { not_keeping: Some(why), bytes: 0, objects: 0, .. } => Err(WorkError::NoCache(why)),
            numbers => Ok(numbers),
        }
    }

    /// What is cached of each of these.
    pub(super) async fn reports(
        &self,
        objects: &Arc<Vec<ObjectId>>,
        meter: &Arc<Meter>,
    ) -> Result<Vec<ObjectReport>, WorkError> {
        let (reader, objects, meter) = (self.reader.clone(), objects.clone(), meter.clone());
        let looking = task::spawn_blocking("cache-look", move || {
            let wanted = objects.iter().take_while(|_| !meter.is_stopped());
            wanted.map(|object| reader.object_report(object)).collect()
        });
        looking.await.map_err(|_| WorkError::CutOff)
    }
}

fn evict(reader: &read::Reader, object: &ObjectId, pinned_too: bool, report: &mut EvictReport) {
    let before = reader.object_report(object);
    let path = object.key.as_str();
    if before.bytes_present == 0 {
        return;
    }
    match if pinned_too { reader.evict_pinned(object) } else { reader.evict(object) } {
        Ok(Evicted { kept: Some(Kept::InUse), .. }) => report.in_use.add(path, "a program has it open"),
        Ok(Evicted { kept: Some(Kept::Pinned), .. }) => report.pinned.add(path, "it is pinned"),
        Ok(Evicted { bytes, kept: None }) => {
            report.files += 1;
            report.bytes += bytes;
        }
        Err(error) => report.failed.add(path, error.to_string()),
    }
}
