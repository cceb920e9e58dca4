//! Jobs as administrators see them, with two replicas of the service.

use std::{str::FromStr, time::Duration};

use souk_common::{auth::Role, error::Reason};
use souk_proto::{
    common::v1::{Job, ListJobsRequest, RunJobRequest},
    user::v1::job_service_client::JobServiceClient,
};
use souk_testkit::wait;
use tonic::{Request, Status, metadata::MetadataValue};

use crate::harness::{Service, both, fields, refused};

const DEADLINE: Duration = Duration::from_secs(30);

fn request<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let header = MetadataValue::from_str(&format!("Bearer {token}")).unwrap();
        request.metadata_mut().insert("authorization", header);
    }
    request
}

async fn list(service: &Service, token: Option<&str>, parent: &str) -> Result<Vec<Job>, Status> {
    let (mut client, mut jobs) = (JobServiceClient::new(service.channel()), Vec::new());
    // One job per page, to check that no job is missed.
    let mut asked = ListJobsRequest { parent: parent.to_owned(), page_size: 1, page_token: String::new() };
    loop {
        let page = client.list_jobs(request(token, asked.clone())).await?.into_inner();
        assert!(page.jobs.len() <= 1);
        jobs.extend(page.jobs);
        if page.next_page_token.is_empty() {
            return Ok(jobs);
        }
        asked.page_token = page.next_page_token;
    }
}

async fn run(service: &Service, token: Option<&str>, name: &str) -> Result<Job, Status> {
    let asked = RunJobRequest { name: name.to_owned() };
    Ok(JobServiceClient::new(service.channel()).run_job(request(token, asked)).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_list_jobs_and_run_them_from_any_replica() {
    for souk in both().await {
        let admin = souk.staff("ann@example.com", Role::Admin).await.access_token;
        let other = Service::start(&souk.database, &[]).await;
        let done = wait::value(DEADLINE, "every job to have run", async || {
            let jobs = list(&other, Some(&admin), "services/user").await.ok()?;
            jobs.iter().all(|job| job.run_count > 0).then_some(jobs)
        })
        .await;
        let names: Vec<_> = done.iter().map(|job| job.name.as_str()).collect();
        assert_eq!(names, ["services/user/jobs/session-cleanup", "services/user/jobs/signing-keys"]);
        for job in &done {
            assert!(!job.holder.is_empty() && job.lease_expire_time.is_some() && !job.everywhere, "{job:?}");
            assert_eq!((job.interval.unwrap().seconds, job.last_error.as_str()), (600, ""));
            assert!(job.last_success_time.is_some() && job.last_run_duration.is_some());
            assert_eq!((job.run_count, job.failure_count), (1, 0));
        }
        for (replica, runs) in [(&other, 2), (&souk.service, 3)] {
            let answer = run(replica, Some(&admin), names[0]).await.unwrap();
            assert_eq!(answer.name, names[0]);
            wait::until(DEADLINE, "the run that was asked for", async || {
                let jobs = list(replica, Some(&admin), "services/user").await.unwrap();
                jobs[0].trigger_time.is_none() && jobs[0].run_count == runs && jobs[1].run_count == 1
            })
            .await;
        }
        other.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_reported_and_nobody_else_is_admitted() {
    for souk in both().await {
        let admin = souk.staff("ann@example.com", Role::Admin).await.access_token;
        let unknown = run(&souk, Some(&admin), "services/user/jobs/sweep").await;
        let problem = refused(unknown, Reason::ResourceNotFound);
        assert!(problem.message().ends_with("are session-cleanup, signing-keys"), "{problem}");
        // The job of another service, sent to the wrong service.
        refused(run(&souk, Some(&admin), "services/order/jobs/saga").await, Reason::ResourceNotFound);
        let elsewhere = refused(list(&souk, Some(&admin), "services/order").await, Reason::FieldInvalid);
        assert_eq!(fields(&elsewhere), ["parent"]);
        refused(run(&souk, Some(&admin), "jobs/saga").await, Reason::FieldInvalid);

        let staff = souk.staff("sue@example.com", Role::Staff).await.access_token;
        let customer = souk.customer("bob@example.com").await.access_token;
        for (token, reason) in [
            (None, Reason::TokenMissing),
            (Some(&*customer), Reason::AccessDenied),
            (Some(&*staff), Reason::AccessDenied),
        ] {
            refused(list(&souk, token, "services/user").await, reason);
            refused(run(&souk, token, "services/user/jobs/signing-keys").await, reason);
        }
    }
}
