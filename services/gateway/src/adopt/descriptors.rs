//! Reads the descriptors of a contract, from a file or from the backends.

use std::{collections::HashSet, fs, io, path::Path};

use prost::Message;
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::reflection::{self, ReflectionError};
use crate::config::Config;

/// The most that descriptors may be. The largest contracts that are known have a tenth of it.
pub const MOST_BYTES: usize = 64 << 20;

/// Descriptors that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// The file cannot be read.
    #[error("gateway.contract.descriptors: {file} cannot be read")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "gateway.contract.descriptors: {file} {what}: make it with `protoc --include_imports \
         --descriptor_set_out={file}` or `buf build -o {file}`"
    )]
    NotDescriptors {
        /// The file.
        file: String,
        /// What is the matter with it.
        what: String,
    },
    /// The backends do not tell.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
}

/// The encoded descriptor set that the settings name, and where it is from.
pub async fn of(config: &Config) -> Result<(Vec<u8>, String), DescriptorError> {
    let file = &config.settings.contract.descriptors;
    if file.is_empty() {
        return Ok((reflection::descriptors(config).await?, "the backends".to_owned()));
    }
    Ok((read(file)?, file.clone()))
}

fn read(file: &str) -> Result<Vec<u8>, DescriptorError> {
    let unreadable = |source| DescriptorError::Unreadable { file: file.to_owned(), source };
    let wrong = |what: String| DescriptorError::NotDescriptors { file: file.to_owned(), what };
    let length = fs::metadata(Path::new(file)).map_err(unreadable)?.len();
    if length > MOST_BYTES as u64 {
        return Err(wrong(format!("is larger than {MOST_BYTES} bytes")));
    }
    let bytes = fs::read(file).map_err(unreadable)?;
    check(&bytes).map_err(wrong)?;
    Ok(bytes)
}

/// Checks what a set must be before its types are looked at.
pub fn check(descriptors: &[u8]) -> Result<(), String> {
    let set = FileDescriptorSet::decode(descriptors).map_err(|error| format!("is no descriptor set ({error})"))?;
    if set.file.is_empty() {
        return Err("has no file in it".to_owned());
    }
    let names: HashSet<_> = set.file.iter().map(FileDescriptorProto::name).collect();
    for file in &set.file {
        if let Some(missing) = file.dependency.iter().find(|name| !names.contains(name.as_str())) {
            return Err(format!("lacks `{missing}`, which `{}` imports", file.name()));
        }
    }
    Ok(())
}
