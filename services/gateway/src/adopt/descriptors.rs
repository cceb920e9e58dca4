//! Reads the descriptors of a contract, from a file or from the backends.

use std::{collections::HashSet, fs, io, path::Path};

use prost::Message;
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::reflection::{self, ReflectionError};
use crate::config::Config;

/// Maximum size of the descriptors, in bytes. The largest known contracts have a tenth of it.
pub const MOST_BYTES: usize = 64 << 20;

/// Why the descriptors of a contract cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// The file cannot be read.
    #[error("gateway.contract.descriptors: {file} cannot be read")]
    Unreadable {
        /// Path of the file.
        file: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file is not a valid descriptor set.
    #[error(
        "gateway.contract.descriptors: {file} {what}: make it with `protoc --include_imports \
         --descriptor_set_out={file}` or `buf build -o {file}`"
    )]
    NotDescriptors {
        /// Path of the file.
        file: String,
        /// What is wrong with the file.
        what: String,
    },
    /// The backends do not provide the descriptors.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
}

/// Loads the encoded descriptor set that the settings name. Returns it with a description of its source.
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

/// Checks that a descriptor set is complete, before its types are read.
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
