//! What `doctor` says: findings, each with what it concerns and what to do about it.
//!
//! The service answers with what it sees itself; the command line adds what it sees beside it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::Severity;
use super::objects::Schema;

/// Something that somebody may want to mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Stable code, `SCREAMING_SNAKE`.
    pub code: String,
    /// `error`: somebody must act. `warning`: it costs something. `info`: worth knowing.
    pub severity: Severity,
    /// What it concerns: `node`, `store NAME`, `peer NAME`, `image STORE/NAME`, `token NAME` or a path.
    pub about: String,
    /// What was found, in words.
    pub message: String,
    /// What to do: a command, or a key to set.
    pub fix: String,
}

impl Finding {
    /// Worth knowing.
    #[must_use]
    pub fn info(code: &str, about: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(code, Severity::Info, about.into(), message.into())
    }

    /// It costs something, or will.
    #[must_use]
    pub fn warning(code: &str, about: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(code, Severity::Warning, about.into(), message.into())
    }

    /// Somebody must act.
    #[must_use]
    pub fn error(code: &str, about: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(code, Severity::Error, about.into(), message.into())
    }

    /// The same with a fix that fits the case better than the table's.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Finding {
        self.fix = fix.into();
        self
    }

    fn new(code: &str, severity: Severity, about: String, message: String) -> Finding {
        let fix = super::remedy_for(code).to_owned();
        Finding { code: code.to_owned(), severity, about, message, fix }
    }
}

/// `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorReport {
    /// `v1`.
    pub schema: Schema,
    /// The service was asked too; without it there is less to see.
    pub online: bool,
    /// How many somebody must act upon.
    pub errors: u64,
    /// How many cost something.
    pub warnings: u64,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

impl DoctorReport {
    /// Puts findings in order, the worst first, each one once.
    #[must_use]
    pub fn new(online: bool, mut findings: Vec<Finding>) -> DoctorReport {
        findings.sort_by_cached_key(|finding| {
            (std::cmp::Reverse(finding.severity), finding.code.clone(), finding.about.clone())
        });
        findings.dedup_by(|a, b| a.code == b.code && a.about == b.about && a.message == b.message);
        let of = |severity| findings.iter().filter(|f| f.severity == severity).count() as u64;
        let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
        DoctorReport { schema: Schema, online, errors, warnings, findings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_each_once() {
        let twin = || Finding::info("NO_REFLINK", "store a", "x");
        let bad = Finding::error("DISK_FULL", "store b", "y").fix("free 3 bytes");
        let report = DoctorReport::new(true, vec![twin(), bad.clone(), twin()]);
        assert_eq!((report.errors, report.warnings, report.findings.len()), (1, 0, 2));
        assert_eq!(report.findings[0], bad);
        assert!(report.findings[1].fix.contains("XFS"), "the table's: {}", report.findings[1].fix);
    }
}
