//! `doctor`: what is wrong here, or will be, with what to do about it.
//!
//! Asks the service for what it sees, looks at the machine itself, and says which of both it could.

use super::App;
use crate::args::DoctorArgs;
use crate::failure::{AdminError, Failure};
use crate::machine::{self, Running};
use crate::output::{count, word};
use blockferry_node::api::{DoctorReport, Exit, Finding, Request, Severity, StatusReport};

/// What came of the questions.
pub(crate) struct Examined {
    pub(crate) report: DoctorReport,
    pub(crate) exit: Exit,
    /// Why the service said nothing.
    pub(crate) unreached: Option<AdminError>,
}

pub(crate) fn run(app: &App, args: &DoctorArgs) -> Result<Exit, Failure> {
    let examined = examine(app, args.offline)?;
    match &examined.unreached {
        Some(error) => app.out.prose(&format!("without the service: {error}")),
        None if args.offline => app.out.prose("without the service, as asked"),
        None => {}
    }
    app.out.either(&examined.report, || text(&examined.report))?;
    Ok(examined.exit)
}

/// Looks at everything there is to see.
pub(crate) fn examine(app: &App, offline: bool) -> Result<Examined, Failure> {
    let (settings, wrong) = app.location.check();
    let mut findings = machine::judge::configuration(&wrong);
    let (mut running, mut unreached) = (None, None);
    if !offline {
        match ask(app) {
            Ok((report, status)) => {
                findings.extend(report.findings);
                running = Some(status);
            }
            Err(Failure::Error(error)) => {
                findings.push(unanswered(&error));
                unreached = Some(error);
            }
            Err(gone @ Failure::NobodyReads) => return Err(gone),
        }
    }
    let online = running.is_some();
    if let Some(settings) = &settings {
        let running = running.map(|status| Running {
            id: status.node.id,
            addresses: status
                .peers
                .into_iter()
                .filter(|peer| !peer.connected)
                .flat_map(|peer| {
                    let name = peer.name;
                    peer.addresses.into_iter().map(move |address| (name.clone(), address))
                })
                .collect(),
        });
        let machine = machine::look(settings, !app.location.required, running);
        findings.extend(machine::judge::judge(&machine));
    }
    let report = DoctorReport::new(online, findings);
    let exit = exit(&report, !wrong.is_empty(), unreached.as_ref());
    Ok(Examined { report, exit, unreached })
}

fn ask(app: &App) -> Result<(DoctorReport, StatusReport), Failure> {
    Ok((app.ask(&Request::Doctor {})?, app.ask(&Request::Status {})?))
}

/// The service doesn't answer: for whoever may not ask, that says nothing about the service.
fn unanswered(error: &AdminError) -> Finding {
    let found = if error.code == "CONTROL_FORBIDDEN" {
        Finding::warning(&error.code, "node", error.message.clone())
    } else {
        Finding::error(&error.code, "node", error.message.clone())
    };
    found.fix(error.remedy.clone())
}

/// 0: sound. 3: warnings. 1: somebody must act. 10: no service answers. 78: no configuration.
fn exit(report: &DoctorReport, unusable: bool, unreached: Option<&AdminError>) -> Exit {
    let no_service = unreached.is_some_and(|error| error.code == "SERVICE_UNREACHABLE");
    match (unusable, no_service, report.errors, report.warnings) {
        (true, ..) => Exit::Config,
        (false, true, ..) => Exit::Unreachable,
        (false, false, 1.., _) => Exit::Failed,
        (false, false, 0, 1..) => Exit::Partly,
        (false, false, 0, 0) => Exit::Done,
    }
}

/// Findings with their fixes, then how many there are.
fn text(report: &DoctorReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let Finding { code, severity, about, message, fix } = finding;
        text.push_str(&format!("{:8}{about}: {message} [{code}]\n", word(severity)));
        text.push_str(&format!("        fix: {fix}\n"));
    }
    text + &summary(report)
}

fn summary(report: &DoctorReport) -> String {
    let notes = report.findings.iter().filter(|f| f.severity == Severity::Info).count() as u64;
    if report.findings.is_empty() {
        return "nothing found".to_owned();
    }
    let (errors, warnings) = (count(report.errors, "error"), count(report.warnings, "warning"));
    format!("{errors}, {warnings}, {}", count(notes, "note"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(severities: &[Severity]) -> DoctorReport {
        let of = |severity: &Severity| match severity {
            Severity::Info => Finding::info("NO_REFLINK", "store a", "why"),
            Severity::Warning => Finding::warning("NO_WATCH", "store a", "why"),
            Severity::Error => Finding::error("DEGRADED", "store a", "why"),
        };
        DoctorReport::new(true, severities.iter().map(of).collect())
    }

    #[test]
    fn exit_statuses() {
        use Severity::{Error, Info, Warning};
        let down = AdminError::new("SERVICE_UNREACHABLE", "x");
        let forbidden = AdminError::new("CONTROL_FORBIDDEN", "x");
        for (severities, expected) in [
            (&[][..], Exit::Done),
            (&[Info][..], Exit::Done),
            (&[Info, Warning][..], Exit::Partly),
            (&[Info, Warning, Error][..], Exit::Failed),
        ] {
            let report = report(severities);
            assert_eq!(exit(&report, false, None), expected);
            assert_eq!(exit(&report, false, Some(&forbidden)), expected);
            assert_eq!(exit(&report, false, Some(&down)), Exit::Unreachable);
            assert_eq!(exit(&report, true, Some(&down)), Exit::Config);
        }
    }

    #[test]
    fn the_worst_is_read_first_with_its_fix_below() {
        let text = text(&report(&[Severity::Info, Severity::Error]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "error   store a: why [DEGRADED]");
        assert!(lines[1].starts_with("        fix: the disk failed"), "{text}");
        assert!(lines[2].starts_with("info    store a"), "{text}");
        assert_eq!(lines[4], "1 error, 0 warnings, 1 note");
        assert_eq!(super::text(&report(&[])), "nothing found");
    }
}
