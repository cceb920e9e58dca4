//! `JobService`, which every service has in its own package.

use std::time::Duration;

use chrono::{DateTime, Utc};
use souk_common::{
    error::{Problem, Reason},
    page,
};
use souk_proto::common::v1::{Job, ListJobsRequest, ListJobsResponse, RunJobRequest};
use tonic::{Request, Response, Status as GrpcStatus};

use super::{Jobs, Record, Status, lock};

/// Implements the generated traits of `JobService` of all services' packages, for the jobs of one service.
#[derive(Clone)]
pub struct JobRpc(Jobs);

impl JobRpc {
    /// Serves these jobs.
    #[must_use]
    pub fn new(jobs: Jobs) -> Self {
        Self(jobs)
    }

    async fn list(&self, request: ListJobsRequest) -> Result<ListJobsResponse, Problem> {
        let parent = self.parent();
        if request.parent != parent {
            let what = format!("must be {parent}: each service lists its own jobs");
            return Err(Problem::invalid("parent", what));
        }
        let query = ("jobs", &parent);
        let size = page::size(request.page_size);
        let after: Option<String> = page::decode(&request.page_token, &query)?;
        let left = self.0.statuses().await?.into_iter().filter(|job| after.as_ref() < Some(&job.record.name));
        let (left, key) = (left.collect::<Vec<_>>(), |job: &Status| job.record.name.clone());
        let (jobs, next_page_token) = page::cut(left, size, &query, key, |status| message(&parent, status));
        Ok(ListJobsResponse { jobs, next_page_token })
    }

    async fn run(&self, request: RunJobRequest) -> Result<Job, Problem> {
        let parent = self.parent();
        let name = request.name.strip_prefix(&format!("{parent}/jobs/"));
        let triggered = match name {
            Some(name) => self.0.trigger(name).await?,
            None => None,
        };
        triggered.map(|status| message(&parent, status)).ok_or_else(|| {
            let mut known: Vec<_> = lock(&self.0.0.jobs).iter().map(|job| job.name).collect();
            known.sort_unstable();
            let what = format!("{} does not exist; the jobs of {parent} are {}", request.name, known.join(", "));
            Problem::new(Reason::ResourceNotFound, what).resource("souk/Job", request.name)
        })
    }

    fn parent(&self) -> String {
        format!("services/{}", self.0.0.service)
    }
}

/// Implements the trait of each package in the same way.
macro_rules! serve {
    ($($package:ident),*) => {$(
        #[tonic::async_trait]
        impl souk_proto::$package::v1::job_service_server::JobService for JobRpc {
            async fn list_jobs(
                &self,
                request: Request<ListJobsRequest>,
            ) -> Result<Response<ListJobsResponse>, GrpcStatus> {
                Ok(Response::new(self.list(request.into_inner()).await?))
            }

            async fn run_job(&self, request: Request<RunJobRequest>) -> Result<Response<Job>, GrpcStatus> {
                Ok(Response::new(self.run(request.into_inner()).await?))
            }
        }
    )*};
}
serve!(user, inventory, order);

fn message(parent: &str, status: Status) -> Job {
    let Status { record, everywhere, interval, lag } = status;
    let Record { name, holder, lease_until, triggered_at, last_run_at, last_success_at, .. } = record;
    let took = record.last_duration_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    Job {
        name: format!("{parent}/jobs/{name}"),
        interval: duration(interval),
        everywhere,
        holder: holder.unwrap_or_default(),
        lease_expire_time: lease_until.map(timestamp),
        trigger_time: triggered_at.map(timestamp),
        last_run_time: last_run_at.map(timestamp),
        last_success_time: last_success_at.map(timestamp),
        last_run_duration: took.and_then(duration),
        last_error: record.last_error.unwrap_or_default(),
        run_count: record.runs,
        failure_count: record.failures,
        item_count: record.items,
        lag: duration(lag),
    }
}

/// `None` if the duration is longer than a message can hold (292 billion years).
fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

fn timestamp(at: DateTime<Utc>) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default();
    prost_types::Timestamp { seconds: at.timestamp(), nanos }
}
