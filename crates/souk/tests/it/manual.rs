//! Shell completions and manual pages, read by real shells and `groff`.

use std::{fs, process::Command};

use super::cluster::souk;

async fn completions(shell: &str) -> String {
    let (status, text) = souk().args(["completions", shell]).run().await;
    assert!(status.success(), "{text}");
    text
}

#[tokio::test]
async fn bash_completes_commands_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("souk.bash");
    fs::write(&script, completions("bash").await).unwrap();
    let complete = |words: &[&str]| {
        let program = r#"
            source "$1"; shift
            complete -p souk >/dev/null || exit 1
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _souk souk "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let output = Command::new("bash").args(["-c", program, "bash"]).arg(&script).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete(&["souk", "ver"]), ["verify"]);
    assert_eq!(complete(&["souk", "user", "create"]), ["create-admin"]);
    assert_eq!(complete(&["souk", "demo", "--ser"]), ["--server"]);
}

#[tokio::test]
async fn each_shell_has_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(completions(shell).await.contains("healthcheck"), "{shell}");
    }
}

#[tokio::test]
async fn the_manual_has_a_valid_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man");
    let (status, log) = souk().arg("man").arg(&pages).run().await;
    assert!(status.success(), "{log}");
    let names: Vec<_> = fs::read_dir(&pages).unwrap().map(|page| page.unwrap().path()).collect();
    for name in ["souk.1", "souk-up.1", "souk-demo.1", "souk-user-create-admin.1"] {
        assert!(names.iter().any(|page| page.ends_with(name)), "{name} is not among {names:?}");
    }
    for page in &names {
        let text = fs::read_to_string(page).unwrap();
        assert!(text.contains(".TH souk") && text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{text}");
        // If `groff` is installed, it must find no error.
        let Ok(output) = Command::new("groff").args(["-Kutf8", "-man", "-Tutf8", "-ww", "-z"]).arg(page).output()
        else {
            continue;
        };
        assert!(output.status.success() && output.stderr.is_empty(), "{}: {output:?}", page.display());
    }
}
