//! nginx logs one `[crit] ... connect() to ... failed (99: Cannot assign requested address)` line
//! for each connect() that found no port (ngx_event_connect.c).
//!
//! nginx speaks HTTP/1.1 with the upstream, without `Connection: close` and without a keepalive pool: the upstream leaves the
//! connection open, nginx closes it first, and its ports stay in TIME_WAIT until the range is full.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT, nginx_config, record, start_nginx};

/// nginx, with 1,000 source ports, logs at least one connect() that found no port, and as many as the tracer counts of it.
pub(super) fn runs_out() -> Result<()> {
    let scene = Scene::new(1000, "location / { return 200 'ok'; }")?;
    let folder = scene.folder.path();
    let http = format!(
        "upstream backend {{ server {UPSTREAM}:{UPSTREAM_PORT} max_fails=0; }}\n\
         server {{ listen {PROXY}:8080; \n\
         proxy_http_version 1.1; proxy_set_header Connection '';\n\
         location / {{ proxy_pass http://backend; }} }}"
    );
    let config = nginx_config(folder, "proxy", &http)?;
    let mut nginx = scene.proxy.run(|| start_nginx(&config))?;
    let record = record()?;
    scene.load(20, 5)?;
    // After the end of nginx, its log is complete.
    nginx.signal(Signal::TERM)?;
    nginx.wait(Duration::from_secs(10))?;
    let recording = record.stop()?;

    let log = fs::read_to_string(folder.join("proxy.error.log"))?;
    let lines = log.lines().filter(|line| line.contains("(99: Cannot assign requested address)"));
    let logged = u64::try_from(lines.count())?;
    let traced = scene.exhaustions(&recording, "nginx")?;
    ensure!(logged > 0, "nginx never ran out of ports");
    ensure!(traced == logged, "nginx logged {logged} failures, the tracer {traced}");
    Ok(())
}
