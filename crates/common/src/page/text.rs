//! Texts for errors, which say what would be right.

/// Formats words as a list: `` `a`, `b` or `c` ``.
pub(super) fn any_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// `; did you mean …?` if one of the words is similar, or else a list of all words.
pub(super) fn instead(given: &str, words: &[&str]) -> String {
    let given = given.to_lowercase();
    let near = words
        .iter()
        .map(|word| (strsim::jaro_winkler(&given, &word.to_lowercase()), word))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, word)) => format!("did you mean `{word}`? It may be {}", any_of(words)),
        None => format!("it may be {}", any_of(words)),
    }
}

/// Shortens a client's word before an error repeats it.
pub(super) fn short(given: &str) -> String {
    const MAX: usize = 40;
    match given.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &given[..end]),
        None => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_listed_and_similar_words_suggested() {
        assert_eq!(any_of(&["a"]), "`a`");
        assert_eq!(any_of(&["a", "b", "c"]), "`a`, `b` or `c`");
        assert!(instead("stat", &["title", "state"]).starts_with("did you mean `state`?"));
        assert!(instead("Title", &["title", "state"]).starts_with("did you mean `title`?"));
        assert_eq!(instead("zzz", &["title", "state"]), "it may be `title` or `state`");
        assert_eq!(short(&"é".repeat(50)).chars().count(), 41);
    }
}
