//! A web server at the sender, for the tools whose receiver fetches archives or chunks by HTTP.

use std::fs;

use super::super::side::Line;
use super::{Job, version_of};
use crate::ground::tools::is_root;

/// A running nginx.
#[derive(Clone, Debug)]
pub(super) struct Nginx {
    /// Where its files are at the sender.
    pub(super) root: String,
    /// Where the receiver finds them.
    pub(super) url: String,
}

impl Nginx {
    pub(super) fn version() -> Result<String, String> {
        version_of("nginx", "-v").map_err(|why| format!("nginx: {why}"))
    }

    /// Starts it, for an empty directory.
    pub(super) fn start(job: &mut Job<'_>) -> anyhow::Result<Nginx> {
        let address = job.sender.free_address()?;
        let root = job.sender.path("http")?;
        fs::create_dir_all(&root)?;
        let (config, log) = (job.sender.path("nginx.conf")?, job.sender.path("nginx.log")?);
        // Workers that root starts would run as nobody.
        let user = if is_root() { "user root;\n" } else { "" };
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = kinds.map(|kind| format!("{kind}_temp_path {root}-tmp;\n")).concat();
        let text = format!(
            "{user}daemon off;\nworker_processes 1;\npid {root}.pid;\nevents {{}}\n\
             http {{\naccess_log off;\nsendfile on;\ntcp_nopush on;\nkeepalive_requests 1000000;\n\
             {temporary}server {{\nlisten {address};\nroot {root};\n}}\n}}\n"
        );
        fs::write(&config, &text)?;
        job.sender.note(&format!("nginx.conf: {}", text.trim().replace('\n', " ")));
        let line = Line::new("nginx").args(["-e", &log, "-c", &config]);
        let process = job.sender.spawn(&line)?;
        job.sender.wait_for_port(("tcp", address.port()), &process, job.deadline)?;
        Ok(Nginx { root, url: format!("http://{address}") })
    }
}
