//! Compiles the contracts without protoc, and keeps their descriptors with all custom options.

use std::{error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root.join("souk"), &mut files)?;
    collect(&root.join("third_party/google/rpc"), &mut files)?;
    files.sort();

    // A file is named by the first folder that it is in.
    let includes = [root.join("third_party"), root.clone()];
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;

    // The encoded form keeps the options that prost's own descriptor types drop.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("souk.binpb"), compiler.encode_file_descriptor_set())?;

    let mut set = compiler.file_descriptor_set();
    // Only the program reads validation rules, and it reads them from the descriptors.
    set.file.retain(|file| !file.name().starts_with("buf/validate"));
    for file in &mut set.file {
        file.dependency.retain(|name| !name.starts_with("buf/validate"));
    }
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // These hold passwords, tokens, secrets and what a payment provider tells; src/lib.rs writes their Debug without the
    // values.
    config.skip_debug([
        "souk.user.v1.RegisterRequest",
        "souk.user.v1.ChangePasswordRequest",
        "souk.user.v1.LogInRequest",
        "souk.user.v1.RefreshSessionRequest",
        "souk.user.v1.LogOutRequest",
        "souk.user.v1.Session",
        "souk.order.v1.ReceiveWebhookRequest",
        "souk.order.v1.WebhookEndpoint",
    ]);
    tonic_prost_build::configure().include_file("souk.rs").compile_fds_with_config(set, config)?;
    Ok(())
}

fn collect(directory: &PathBuf, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
