//! Reads descriptors from the backends by gRPC server reflection. A backend is trusted only for its own services: its
//! responses are limited in size and checked against the request.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::BufMut;
use futures::{TryStreamExt, stream};
use http::uri::PathAndQuery;
use prost::{Message, encoding::encode_varint};
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};
use souk_common::{
    client::{AddressError, Client},
    contract::{Contract, ContractError},
    error::chain,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status, client::Grpc};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest as Question,
    server_reflection_response::MessageResponse as Answer,
};

use super::descriptors::{MOST_BYTES, check};
use crate::{config::Config, own};

/// How long the gateway waits for backends to start. A gateway and its services are often started together.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of a reflection call.
const ANSWER: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);
/// Maximum number of files and services of a backend.
const MOST: usize = 10_000;

const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Errors of reflection.
#[derive(Debug, thiserror::Error)]
pub enum ReflectionError {
    /// souk's own contract cannot be read.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// No backend is configured.
    #[error(
        "gateway.contract.reflection: gateway.backends names no backend to ask: --backend my.pkg=http://127.0.0.1:9000"
    )]
    NoBackend,
    /// The address of a backend is invalid.
    #[error("gateway.backends.{backend}: {source}")]
    Address {
        /// Name of the backend.
        backend: String,
        /// What is wrong with the address.
        #[source]
        source: AddressError,
    },
    /// The backend cannot be reached, or does not respond.
    #[error("the backend `{backend}` cannot be asked for its services")]
    Unreachable {
        /// Name of the backend.
        backend: String,
        /// The error of the backend or of the connection.
        #[source]
        source: Box<Status>,
    },
    /// The backend does not offer reflection.
    #[error(
        "the backend `{0}` has no server reflection: turn it on there, or give its descriptors in a file (--descriptors)"
    )]
    None(String),
    /// The response of the backend is invalid.
    #[error("the backend `{backend}` answers questions by reflection wrongly: {what}")]
    Wrong {
        /// Name of the backend.
        backend: String,
        /// What is wrong with the response.
        what: String,
    },
    /// Two backends have different files of the same name.
    #[error(
        "the backends `{one}` and `{other}` have different files `{file}`: give the descriptors in a file (--descriptors)"
    )]
    Differ {
        /// Name of the first backend.
        one: String,
        /// Name of the second backend.
        other: String,
        /// Name of the file.
        file: String,
    },
}

/// The descriptor files of all backends.
#[derive(Default)]
struct Files {
    /// The encoded file and the name of its backend, by file name.
    found: BTreeMap<String, (Vec<u8>, String)>,
    bytes: usize,
}

/// Returns the encoded descriptor set of the backends' services. From each backend it reads only the services that
/// match the backend's name.
pub async fn descriptors(config: &Config) -> Result<Vec<u8>, ReflectionError> {
    let mut files = Files::default();
    let mut any = false;
    // souk's own user service only publishes the keys. It is not served.
    let keys = config.settings.backends.of(&config.settings.keys_from).map(|(name, _)| name);
    for (backend, address) in config.settings.backends.iter().filter(|(name, _)| keys != Some(name)) {
        let address = config.client(address);
        let client = Client::new(&address, Contract::souk()?, None)
            .map_err(|source| ReflectionError::Address { backend: backend.to_owned(), source })?;
        let of_it = |service: &str| config.settings.backends.of(service).is_some_and(|(name, _)| name == backend);
        Backend { name: backend, client, path: PATHS[0] }.collect(of_it, &mut files).await?;
        any = true;
    }
    if any { files.into_set() } else { Err(ReflectionError::NoBackend) }
}

struct Backend<'a> {
    name: &'a str,
    client: Client,
    path: &'static str,
}

impl Backend<'_> {
    async fn collect(mut self, of_it: impl Fn(&str) -> bool, files: &mut Files) -> Result<(), ReflectionError> {
        let services: Vec<String> = self.services().await?.into_iter().filter(|service| of_it(service)).collect();
        if services.is_empty() {
            return Err(self.wrong("it lists no service that matches its name in gateway.backends"));
        }
        let questions = services.iter().cloned().map(Question::FileContainingSymbol).collect();
        let mut open = BTreeSet::new();
        let mut declared = BTreeSet::new();
        for answer in self.ask(questions).await? {
            self.take(answer, files, &mut open, &mut declared)?;
        }
        if let Some(lacking) = services.iter().find(|service| !declared.contains(*service)) {
            return Err(self.wrong(format!("the file that it gives for {lacking} does not have that service")));
        }
        loop {
            open.retain(|name| !files.found.contains_key(name));
            if open.is_empty() {
                return Ok(());
            }
            let wanted: Vec<String> = std::mem::take(&mut open).into_iter().collect();
            let answers = self.ask(wanted.iter().cloned().map(Question::FileByFilename).collect()).await?;
            for (name, answer) in wanted.iter().zip(answers) {
                // Some servers lack the files that only define options.
                if matches!(answer, Answer::ErrorResponse(_))
                    && let Some(usual) = usual(name)
                {
                    self.add(usual, files, &mut open, &mut declared)?;
                    continue;
                }
                self.take(answer, files, &mut open, &mut declared)?;
            }
            if let Some(lacking) = wanted.iter().find(|name| !files.found.contains_key(*name)) {
                return Err(self.wrong(format!("asked for the file `{lacking}`, it gives another one")));
            }
        }
    }

    /// Lists the services of the backend, without those that the gateway itself provides. Waits until the backend has
    /// started.
    async fn services(&mut self) -> Result<Vec<String>, ReflectionError> {
        let begun = Instant::now();
        let mut told = false;
        let answers = loop {
            match self.try_ask(vec![Question::ListServices(String::new())]).await {
                Ok(answers) => break answers,
                Err(status) if status.code() == Code::Unimplemented && self.path == PATHS[0] => self.path = PATHS[1],
                Err(status) if status.code() == Code::Unimplemented => {
                    return Err(ReflectionError::None(self.name.to_owned()));
                }
                Err(status) if status.code() == Code::Unavailable && begun.elapsed() < TIMEOUT => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(backend = self.name, error = chain(&status), "waiting for a backend to start");
                    }
                    sleep(PAUSE).await;
                }
                Err(status) => return Err(self.unreachable(status)),
            }
        };
        let services = match answers.into_iter().next() {
            Some(Answer::ListServicesResponse(list)) => list.service,
            _ => return Err(self.wrong("asked for its services, it gives something else")),
        };
        if services.len() > MOST {
            return Err(self.wrong(format!("it lists more than {MOST} services")));
        }
        let served = |name: &String| !own::is_own(&format!("/{name}/"));
        Ok(services.into_iter().map(|service| service.name).filter(served).collect())
    }

    async fn ask(&self, questions: Vec<Question>) -> Result<Vec<Answer>, ReflectionError> {
        self.try_ask(questions).await.map_err(|status| self.unreachable(status))
    }

    /// Sends all questions on one stream. The responses arrive in the same order.
    async fn try_ask(&self, questions: Vec<Question>) -> Result<Vec<Answer>, Status> {
        let count = questions.len();
        let requests = questions
            .into_iter()
            .map(|question| ServerReflectionRequest { host: String::new(), message_request: Some(question) });
        let work = async {
            let mut grpc = Grpc::new(self.client.clone()).max_decoding_message_size(MOST_BYTES);
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
            let path = PathAndQuery::from_static(self.path);
            let mut answers = grpc.streaming(Request::new(stream::iter(requests)), path, codec).await?.into_inner();
            let (mut taken, mut bytes) = (Vec::new(), 0);
            while taken.len() < count
                && let Some(answer) = answers.try_next().await?
            {
                bytes += answer.encoded_len();
                if bytes > MOST_BYTES {
                    return Err(Status::out_of_range(format!("its answers are more than {MOST_BYTES} bytes")));
                }
                taken.extend(answer.message_response);
            }
            if taken.len() < count {
                return Err(Status::data_loss("it ends its answers before all questions are answered"));
            }
            Ok(taken)
        };
        timeout(ANSWER, work).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
    }

    /// Adds the files of a response.
    fn take(
        &self,
        answer: Answer,
        files: &mut Files,
        open: &mut BTreeSet<String>,
        declared: &mut BTreeSet<String>,
    ) -> Result<(), ReflectionError> {
        match answer {
            Answer::FileDescriptorResponse(response) => response
                .file_descriptor_proto
                .into_iter()
                .try_for_each(|encoded| self.add(encoded, files, open, declared)),
            Answer::ErrorResponse(error) => {
                let message: String = error.error_message.chars().take(200).collect();
                Err(self.wrong(format!("it says error {}: {message}", error.error_code)))
            }
            _ => Err(self.wrong("asked for a file, it gives something else")),
        }
    }

    fn add(
        &self,
        encoded: Vec<u8>,
        files: &mut Files,
        open: &mut BTreeSet<String>,
        declared: &mut BTreeSet<String>,
    ) -> Result<(), ReflectionError> {
        let file = FileDescriptorProto::decode(encoded.as_slice())
            .map_err(|error| self.wrong(format!("a file cannot be read ({error})")))?;
        let name = file.name().to_owned();
        let package = if file.package().is_empty() { String::new() } else { format!("{}.", file.package()) };
        declared.extend(file.service.iter().map(|service| format!("{package}{}", service.name())));
        match files.found.get(&name) {
            Some((known, _)) if *known == encoded => return Ok(()),
            // Common imports exist in many versions, which are equivalent here.
            Some(_) if usual(&name).is_some() => return Ok(()),
            Some((_, one)) => {
                return Err(ReflectionError::Differ { one: one.clone(), other: self.name.to_owned(), file: name });
            }
            None => {}
        }
        files.bytes += encoded.len();
        if files.bytes > MOST_BYTES || files.found.len() >= MOST {
            return Err(self.wrong(format!("its files are more than {MOST}, or more than {MOST_BYTES} bytes")));
        }
        open.extend(file.dependency.iter().cloned());
        files.found.insert(name, (encoded, self.name.to_owned()));
        Ok(())
    }

    fn wrong(&self, what: impl Into<String>) -> ReflectionError {
        ReflectionError::Wrong { backend: self.name.to_owned(), what: what.into() }
    }

    fn unreachable(&self, status: Status) -> ReflectionError {
        ReflectionError::Unreachable { backend: self.name.to_owned(), source: Box::new(status) }
    }
}

impl Files {
    /// Encodes all files as one descriptor set. The files are copied unchanged: encoding them again would lose unknown
    /// options.
    fn into_set(self) -> Result<Vec<u8>, ReflectionError> {
        let mut set = Vec::with_capacity(self.bytes + self.found.len() * 8);
        for (encoded, _) in self.found.values() {
            // Field 1, followed by its length.
            set.put_u8(0x0a);
            encode_varint(encoded.len() as u64, &mut set);
            set.extend_from_slice(encoded);
        }
        let wrong = |what| ReflectionError::Wrong { backend: "all together".to_owned(), what };
        check(&set).map_err(|what| wrong(format!("what they have {what}")))?;
        Ok(set)
    }
}

/// A file by Google or protovalidate that every contract may import, in souk's version.
fn usual(name: &str) -> Option<Vec<u8>> {
    if !(name.starts_with("google/") || name.starts_with("buf/validate/")) {
        return None;
    }
    let set = FileDescriptorSet::decode(souk_proto::DESCRIPTORS).ok()?;
    let at = set.file.iter().position(|file| file.name() == name)?;
    // Taken from the encoded set, because the decoded file has lost its options.
    let mut bytes = souk_proto::DESCRIPTORS;
    let mut files = Vec::new();
    while let Ok((1, prost::encoding::WireType::LengthDelimited)) = prost::encoding::decode_key(&mut bytes) {
        let length = usize::try_from(prost::encoding::decode_varint(&mut bytes).ok()?).ok()?;
        let (file, rest) = bytes.split_at_checked(length)?;
        files.push(file);
        bytes = rest;
    }
    files.get(at).map(|file| file.to_vec())
}
