//! ListSagas, RetrySaga, CompensateSaga and FinishSaga.

use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
    ids::{OrderId, ReturnId},
    page::{
        self,
        filter::{Field, Kind, Term, Value},
    },
};
use souk_proto::order::v1::{
    CompensateSagaRequest, FinishSagaRequest, ListSagasRequest, ListSagasResponse, RetrySagaRequest,
    Saga as SagaMessage, saga_service_server::SagaService,
};
use tonic::{Request, Response, Status};

use super::{Parts, RETRY, Rpc, convert};
use crate::{
    domain::{Saga, Step, Wish},
    saga::answer::response,
    store::{Operated, SagaCondition, SagaId, SagaKey, SagaQuery, SagaView},
};

const FIELDS: &[Field] =
    &[Field::new("attempts", Kind::Int), Field::new("create_time", Kind::Time), Field::new("update_time", Kind::Time)];

#[tonic::async_trait]
impl SagaService for Rpc {
    async fn list_sagas(&self, request: Request<ListSagasRequest>) -> Result<Response<ListSagasResponse>, Status> {
        Ok(Response::new(self.0.sagas(request.get_ref()).await?))
    }

    async fn retry_saga(&self, request: Request<RetrySagaRequest>) -> Result<Response<SagaMessage>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.0.retry(&caller, request.get_ref()).await?))
    }

    async fn compensate_saga(&self, request: Request<CompensateSagaRequest>) -> Result<Response<SagaMessage>, Status> {
        let caller = Caller::of(&request)?;
        let given_up = self.spawn_detached(|parts| async move { parts.compensate(&caller, request.get_ref()).await });
        Ok(Response::new(given_up.await?))
    }

    async fn finish_saga(&self, request: Request<FinishSagaRequest>) -> Result<Response<SagaMessage>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.0.finish_manually(&caller, request.get_ref()).await?))
    }
}

impl Parts {
    async fn sagas(&self, request: &ListSagasRequest) -> Result<ListSagasResponse, Problem> {
        let conditions = convert::conditions(&request.filter, FIELDS, condition)?;
        let query = ("sagas.list", &request.filter);
        let size = page::size(request.page_size);
        let after: Option<SagaKey> = page::decode(&request.page_token, &query).map_err(convert::bad_token)?;
        let rows = self.store.sagas(&SagaQuery { conditions, after, limit: size + 1 }).await?;
        let (sagas, next_page_token) = page::cut(rows, size, &query, SagaView::key, |row| convert::saga(&row));
        Ok(ListSagasResponse { sagas, next_page_token })
    }

    async fn retry(&self, caller: &Caller, request: &RetrySagaRequest) -> Result<SagaMessage, Problem> {
        let id = saga_id(&request.name)?;
        let actor = caller.actor();
        let wish = Wish { actor: &actor, reason: &request.reason, etag: "" };
        match self.store.retry(id, wish).await? {
            Operated::Done(saga) => Ok(convert::saga(&saga)),
            other => Err(refused(other, &request.name, "there is nothing to try again", "must not be done")),
        }
    }

    async fn compensate(&self, caller: &Caller, request: &CompensateSagaRequest) -> Result<SagaMessage, Problem> {
        let (what, must) = ("this saga cannot be abandoned", "must be PENDING at RESERVE, AUTHORIZE or COMMIT");
        let id = match saga_id(&request.name)? {
            SagaId::Order(id) => id,
            id @ SagaId::Adjustment(_) => {
                let seen = self.store.saga(id).await?;
                let seen = seen.map_or(Operated::<()>::NotFound, Operated::Illegal);
                return Err(refused(seen, &request.name, what, must));
            }
        };
        let (lease, actor) = (self.sagas.lease(), caller.actor());
        let wish = Wish { actor: &actor, reason: &request.reason, etag: "" };
        let order = match self.store.abandon(id, wish, self.sagas.payments().name(), lease).await? {
            Operated::Done(order) => order,
            other => return Err(refused(other, &request.name, what, must)),
        };
        self.finish(Saga::Order(order), lease, "the compensation").await?;
        let saga = self.store.saga(SagaId::Order(id)).await?;
        saga.as_ref().map(convert::saga).ok_or_else(|| Problem::not_found(request.name.as_str()))
    }

    async fn finish_manually(&self, caller: &Caller, request: &FinishSagaRequest) -> Result<SagaMessage, Problem> {
        let id = saga_id(&request.name)?;
        let step = Step::from_code(&request.step).map_err(|error| Problem::invalid("step", error.to_string()))?;
        let actor = caller.actor();
        let wish = Wish { actor: &actor, reason: &request.reason, etag: "" };
        match self.store.finish(id, step, wish, response).await? {
            Operated::Done(saga) => Ok(convert::saga(&saga)),
            other => {
                let must = format!("must be at {}", request.step);
                Err(refused(other, &request.name, "it is not at the step that was done", &must))
            }
        }
    }
}

fn saga_id(name: &str) -> Result<SagaId, Problem> {
    let id = name.trim_start_matches("sagas/");
    if id.starts_with(OrderId::PREFIX) {
        id.parse().map(SagaId::Order).map_err(|error| convert::bad_id("name", &error))
    } else {
        id.parse()
            .map(SagaId::Adjustment)
            .map_err(|error: <ReturnId as std::str::FromStr>::Err| convert::bad_id("name", &error))
    }
}

fn refused<T>(operated: Operated<T>, name: &str, what: &str, must: &str) -> Problem {
    match operated {
        Operated::NotFound => Problem::not_found(name),
        Operated::Illegal(saga) => {
            let at = saga.step.map_or_else(String::new, |step: Step| format!(" at {}", step.code()));
            let is = format!("{must}, but is {}{at}", saga.state.code());
            Problem::new(Reason::StateConflict, what).violation("SAGA_STEP", name, is)
        }
        Operated::Busy => {
            Problem::new(Reason::RequestInProgress, "it is being run at this moment: try again").retry_after(RETRY)
        }
        Operated::Done(_) => Problem::internal(),
    }
}

fn condition(term: Term) -> Result<SagaCondition, Problem> {
    match (term.field, term.value) {
        ("attempts", Value::Int(number)) => {
            let number =
                i32::try_from(number).map_err(|_| Problem::invalid("filter", "attempts must be below 2^31"))?;
            Ok(SagaCondition::Attempts(term.op, number))
        }
        ("create_time", Value::Time(time)) => Ok(SagaCondition::CreateTime(term.op, time)),
        ("update_time", Value::Time(time)) => Ok(SagaCondition::UpdateTime(term.op, time)),
        (field, value) => Err(Problem::internal().caused_by(format!("a filter of {field} by {value:?}"))),
    }
}
