//! Reads one source file as tokens, and finds the modules that it declares, the names that its
//! `use` declarations bind, and the paths that name items of the crate. Because this module reads
//! tokens and not parsed items, it also finds paths inside macros.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The declarations and paths of one module. A module declared inside it in braces has a [`Source`]
/// of its own.
#[derive(Debug, Default)]
pub struct Source {
    /// The modules that this module declares.
    pub modules: Vec<Declaration>,
    /// The `use` declarations.
    pub uses: Vec<Use>,
    /// The paths outside of `use` declarations that begin with `crate`, `self` or `super`.
    pub paths: Vec<Located>,
}

/// A declared module.
#[derive(Debug)]
pub struct Declaration {
    pub name: String,
    /// The value of `#[path = ".."]`.
    pub path: Option<String>,
    /// The module's content if it is in braces; `None` if the module has its own file.
    pub content: Option<Source>,
}

/// A name that a `use` declaration binds.
#[derive(Debug)]
pub struct Use {
    /// The name; `None` for `*` and `_`.
    pub name: Option<String>,
    pub path: Located,
}

/// A path as written, and its line.
#[derive(Debug, Clone)]
pub struct Located {
    pub segments: Vec<String>,
    pub line: usize,
}

/// Reads the content of a module.
pub fn read(tokens: TokenStream) -> Source {
    let mut source = Source::default();
    source.read(tokens);
    source
}

impl Source {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let (mut rest, mut path_attribute) = (&tokens[..], None);
        while let Some((token, after)) = rest.split_first() {
            rest = after;
            match token {
                TokenTree::Ident(ident) if ident == "mod" => {
                    rest = self.read_module(after, path_attribute.take());
                }
                // `use<'a>` in a return type is not a declaration.
                TokenTree::Ident(ident)
                    if ident == "use" && !after.first().is_some_and(|it| is_punct(it, '<')) =>
                {
                    let end = after.iter().position(|token| is_punct(token, ';'));
                    let (tree, after) = after.split_at(end.unwrap_or(after.len()));
                    self.read_use(&[], tree);
                    rest = after;
                }
                TokenTree::Ident(ident)
                    if ["crate", "self", "super"].iter().any(|keyword| ident == keyword) =>
                {
                    let (path, after) = read_path(std::slice::from_ref(token), after);
                    if path.segments.len() > 1 {
                        self.paths.push(path);
                    }
                    rest = after;
                }
                TokenTree::Group(group) => {
                    if group.delimiter() == Delimiter::Bracket {
                        path_attribute = value_of_path(group.stream()).or(path_attribute);
                    }
                    self.read(group.stream());
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => path_attribute = None,
                _ => {}
            }
        }
    }

    /// Reads a module declaration after its `mod`: `name;` or `name { .. }`. Returns the tokens
    /// after the declaration.
    fn read_module<'a>(
        &mut self,
        tokens: &'a [TokenTree],
        path: Option<String>,
    ) -> &'a [TokenTree] {
        let [TokenTree::Ident(name), body, rest @ ..] = tokens else { return tokens };
        let content = match body {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                Some(read(group.stream()))
            }
            token if is_punct(token, ';') => None,
            _ => return tokens,
        };
        self.modules.push(Declaration { name: name.to_string(), path, content });
        rest
    }

    /// Reads the tree of a `use` declaration. `before` contains the parts of the path that precede
    /// the enclosing braces, outermost first.
    fn read_use(&mut self, before: &[Located], tree: &[TokenTree]) {
        let (path, rest) = read_path(&[], tree);
        let mut before = before.to_vec();
        before.push(path);
        match rest {
            [TokenTree::Group(group), ..] => {
                let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
                tokens
                    .split(|token| is_punct(token, ','))
                    .filter(|branch| !branch.is_empty())
                    .for_each(|branch| self.read_use(&before, branch));
            }
            _ => {
                let line = before.iter().map(|path| path.line).max().unwrap_or_default();
                let segments = before.into_iter().flat_map(|path| path.segments);
                let mut segments: Vec<String> = segments.collect();
                // `a::{self}` binds `a`.
                if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
                    segments.pop();
                }
                let name = match rest {
                    [TokenTree::Ident(keyword), TokenTree::Ident(alias), ..] if keyword == "as" => {
                        Some(alias.to_string())
                    }
                    [] => segments.last().cloned(),
                    _ => None, // `*`
                };
                let name = name.filter(|name| name != "_");
                self.uses.push(Use { name, path: Located { segments, line } });
            }
        }
    }
}

/// Reads a path such as `a::b::c`. `first` contains the path's first token if the caller has
/// already read it, and is empty otherwise. Returns the path and the tokens after it.
fn read_path<'a>(first: &[TokenTree], mut tokens: &'a [TokenTree]) -> (Located, &'a [TokenTree]) {
    let line = first.iter().chain(tokens).next().map_or(0, |token| token.span().start().line);
    let mut segments: Vec<String> = first.iter().map(ToString::to_string).collect();
    loop {
        if let [colon, second, rest @ ..] = tokens
            && is_punct(colon, ':')
            && is_punct(second, ':')
        {
            tokens = rest;
        } else if !segments.is_empty() {
            break;
        }
        let [TokenTree::Ident(name), rest @ ..] = tokens else { break };
        segments.push(name.to_string());
        tokens = rest;
    }
    (Located { segments, line }, tokens)
}

/// Returns the value of an attribute `path = ".."`, given the tokens inside its brackets; `None`
/// for other attributes.
fn value_of_path(attribute: TokenStream) -> Option<String> {
    let tokens: Vec<TokenTree> = attribute.into_iter().collect();
    match &tokens[..] {
        [TokenTree::Ident(name), equals, TokenTree::Literal(value)]
            if name == "path" && is_punct(equals, '=') =>
        {
            Some(value.to_string().trim_matches('"').to_string())
        }
        _ => None,
    }
}

fn is_punct(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        read(text.parse().unwrap())
    }

    fn uses(text: &str) -> Vec<(Option<String>, String, usize)> {
        let uses = source(text).uses.into_iter();
        uses.map(|it| (it.name, it.path.segments.join("::"), it.path.line)).collect()
    }

    #[test]
    fn a_use_tree_gives_one_entry_for_each_bound_name() {
        let text = "pub(crate) use crate::a::{\n  self,\n  b::{C as D, *},\n  e as _,\n};";
        let expected = [
            (Some("a"), "crate::a", 2),
            (Some("D"), "crate::a::b::C", 3),
            (None, "crate::a::b", 3),
            (None, "crate::a::e", 4),
        ];
        let expected = expected.map(|(name, path, line)| (name.map(str::to_string), path, line));
        let found = uses(text);
        let found: Vec<_> = found.iter().map(|(n, p, l)| (n.clone(), p.as_str(), *l)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn paths_are_found_in_bodies_macros_and_attributes() {
        let text = "fn f() { crate::a::b(); println!(\"{}\", super::super::c) }
                    macro_rules! m { () => { $crate::d::e::<u8>() } }
                    #[derive(self::F)] struct S { self_: u8 }
                    impl S { pub(crate) fn g(self) -> u8 { self.self_ } }";
        let paths = source(text).paths;
        let paths: Vec<_> = paths.iter().map(|path| path.segments.join("::")).collect();
        assert_eq!(paths, ["crate::a::b", "super::super::c", "crate::d::e", "self::F"]);
    }

    #[test]
    fn modules_are_found_with_their_content_or_path() {
        let text = "#[path = \"../x.rs\"] pub mod a; mod b; #[cfg(test)] mod c { mod d; }";
        let modules = source(text).modules;
        let found: Vec<_> =
            modules.iter().map(|it| (it.name.as_str(), it.path.as_deref())).collect();
        assert_eq!(found, [("a", Some("../x.rs")), ("b", None), ("c", None)]);
        assert_eq!(modules[2].content.as_ref().unwrap().modules[0].name, "d");
    }
}
