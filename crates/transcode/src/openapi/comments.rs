//! The comments of the contracts, from the source info of the descriptors.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor};

/// Comments by file and by path in the file.
pub struct Comments(HashMap<String, HashMap<Vec<i32>, String>>);

impl Comments {
    /// Reads all leading comments. Descriptors without source info have none.
    pub fn of(pool: &DescriptorPool) -> Self {
        let files = pool.files().map(|file| {
            let source = file.file_descriptor_proto().source_code_info.iter();
            let comments = source.flat_map(|source| &source.location).filter_map(|location| {
                let text = plain(location.leading_comments.as_deref()?);
                (!text.is_empty()).then(|| (location.path.clone(), text))
            });
            (file.name().to_owned(), comments.collect())
        });
        Self(files.collect())
    }

    /// The comment before a message.
    pub fn message(&self, message: &MessageDescriptor) -> Option<&str> {
        self.at(message.parent_file().name(), message.path())
    }

    /// The comment before a field.
    pub fn field(&self, field: &FieldDescriptor) -> Option<&str> {
        self.at(field.parent_message().parent_file().name(), field.path())
    }

    /// The comment before each value of an enum, with the value's name.
    pub fn values(&self, of: &EnumDescriptor) -> Vec<(String, Option<&str>)> {
        let file = of.parent_file();
        of.values().map(|value| (value.name().to_owned(), self.at(file.name(), value.path()))).collect()
    }

    /// The comment at a path of `google.protobuf.SourceCodeInfo` in a file.
    pub fn at(&self, file: &str, path: &[i32]) -> Option<&str> {
        Some(self.0.get(file)?.get(path)?.as_str())
    }
}

/// Removes the space after `//`, which is not part of the text.
fn plain(comment: &str) -> String {
    let lines: Vec<_> = comment.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n").trim().to_owned()
}
