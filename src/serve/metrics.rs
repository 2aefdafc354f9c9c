//! Counters, and the text in which Prometheus reads them.

use std::{
    fmt::{Display, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The statuses that the server answers with; any other is counted as the last.
const STATUSES: [u16; 17] = [200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 417, 422, 429, 500, 501, 503, 0];

/// Upper ends of the histogram's buckets, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0, 600.0];

/// A route: its method and path.
pub(super) type Label = (&'static str, &'static str);

/// What is counted of HTTP.
pub(super) struct Metrics {
    labels: Vec<Label>,
    /// By route and status.
    answered: Vec<[AtomicU64; STATUSES.len()]>,
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    count: AtomicU64,
    /// Clients that left before their answer was complete.
    pub(super) gone: AtomicU64,
    /// What was no HTTP.
    pub(super) malformed: AtomicU64,
    /// Connections that were closed for taking too long, by not sending or not reading.
    pub(super) timed_out: AtomicU64,
    /// Connections that are open.
    pub(super) connections: AtomicU64,
}

impl Metrics {
    /// For these routes; there is one more place, for what is on no route.
    pub(super) fn new(mut labels: Vec<Label>) -> Metrics {
        labels.push(("", "none"));
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Metrics {
            answered: labels.iter().map(|_| zeros()).collect(),
            labels,
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            micros: AtomicU64::new(0),
            count: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    /// Counts the head of an answer; `route` is a place in the table, if it is on one.
    pub(super) fn answered(&self, route: Option<usize>, status: u16) {
        let row = route.unwrap_or(self.labels.len() - 1);
        let column = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        self.answered[row][column].fetch_add(1, Relaxed);
    }

    /// Counts an answer that is complete.
    pub(super) fn took(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|end| seconds <= *end) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    /// All of it as text.
    pub(super) fn write(&self, text: &mut Text) {
        text.about("kinglet_http_requests_total", "counter", "Requests by route and status.");
        for ((method, path), row) in self.labels.iter().zip(&self.answered) {
            for (status, count) in STATUSES.iter().zip(row) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = format!("method=\"{method}\",route=\"{path}\",status=\"{status}\"");
                    text.value("kinglet_http_requests_total", &labels, count);
                }
            }
        }
        self.write_times(text);
        for (name, kind, help, value) in [
            (
                "kinglet_http_clients_gone_total",
                "counter",
                "Clients that left before the end of their answer.",
                &self.gone,
            ),
            (
                "kinglet_http_malformed_total",
                "counter",
                "Connections closed because of what was no HTTP.",
                &self.malformed,
            ),
            ("kinglet_http_timeouts_total", "counter", "Connections closed for taking too long.", &self.timed_out),
            ("kinglet_http_connections", "gauge", "Open connections.", &self.connections),
        ] {
            text.one(name, kind, help, value.load(Relaxed));
        }
    }

    fn write_times(&self, text: &mut Text) {
        const NAME: &str = "kinglet_http_request_duration_seconds";
        text.about(NAME, "histogram", "From the head of a request to the end of its answer.");
        // The sum is of the same moment as the buckets only if it is read first: a reader may not see more than all.
        let (count, mut sum) = (self.count.load(Relaxed), 0);
        for (end, bucket) in BUCKETS.iter().zip(&self.buckets) {
            sum = count.min(sum + bucket.load(Relaxed));
            text.value(&format!("{NAME}_bucket"), &format!("le=\"{end}\""), sum);
        }
        text.value(&format!("{NAME}_bucket"), "le=\"+Inf\"", count);
        text.value(&format!("{NAME}_sum"), "", self.micros.load(Relaxed) as f64 / 1e6);
        text.value(&format!("{NAME}_count"), "", count);
    }
}

/// Text in the format that Prometheus reads.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    /// Its content type.
    pub(super) const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// What a metric is.
    pub(super) fn about(&mut self, name: &str, kind: &str, help: &str) {
        _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A value of it.
    pub(super) fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    /// A metric with one value.
    pub(super) fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.about(name, kind, help);
        self.value(name, "", value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_written() {
        let metrics = Metrics::new(vec![("GET", "/health"), ("POST", "/v1/completions")]);
        metrics.answered(Some(1), 200);
        metrics.answered(Some(1), 200);
        metrics.answered(None, 404);
        metrics.answered(Some(0), 299);
        metrics.took(Duration::from_millis(30));
        metrics.took(Duration::from_secs(3600));
        metrics.gone.fetch_add(3, Relaxed);
        let mut text = Text::default();
        metrics.write(&mut text);
        for line in [
            "kinglet_http_requests_total{method=\"POST\",route=\"/v1/completions\",status=\"200\"} 2",
            "kinglet_http_requests_total{method=\"\",route=\"none\",status=\"404\"} 1",
            "kinglet_http_requests_total{method=\"GET\",route=\"/health\",status=\"0\"} 1",
            "kinglet_http_request_duration_seconds_bucket{le=\"0.025\"} 0",
            "kinglet_http_request_duration_seconds_bucket{le=\"0.05\"} 1",
            "kinglet_http_request_duration_seconds_bucket{le=\"600\"} 1",
            "kinglet_http_request_duration_seconds_bucket{le=\"+Inf\"} 2",
            "kinglet_http_request_duration_seconds_sum 3600.03",
            "kinglet_http_request_duration_seconds_count 2",
            "kinglet_http_clients_gone_total 3",
        ] {
            assert!(text.0.lines().any(|found| found == line), "{line} is not in\n{}", text.0);
        }
    }
}
