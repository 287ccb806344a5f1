//! Traces without a collector: the spans that the nodes still remember.

use crate::{
    args::Show,
    connect::Host,
    out,
    render::{self, Row},
};
use anyhow::bail;
use muster_proto::v1;
use std::collections::BTreeMap;

pub async fn run(host: &Host, id: Option<String>, name: Option<String>, show: &Show) -> anyhow::Result<u8> {
    let mut client = v1::traces_client::TracesClient::new(host.channel.clone());
    let request = v1::TraceRequest { trace_id: id.clone().unwrap_or_default(), cluster: true };
    let mut spans = client.get(request).await.map_err(|s| anyhow::anyhow!("{}", s.message()))?.into_inner().spans;
    let Some(id) = id else {
        spans.sort_by_key(|s| std::cmp::Reverse(s.start));
        let named = |s: &&v1::Span| name.as_ref().is_none_or(|n| s.name.contains(n.as_str()));
        let columns = [("TraceID", "TRACE ID"), ("Start", "START"), ("Duration", "DURATION"), ("Name", "NAME")];
        render::list(show, &columns, spans.iter().filter(named).map(row).collect())?;
        return Ok(0);
    };
    if spans.is_empty() {
        bail!("no node remembers trace {id} (any more)");
    }
    spans.sort_by_key(|s| s.start);
    if show.format.is_none() && !show.quiet {
        out::write(tree(&spans).as_bytes());
        return Ok(0);
    }
    let columns =
        [("SpanID", "SPAN ID"), ("Start", "START"), ("Duration", "DURATION"), ("Node", "NODE"), ("Name", "NAME")];
    render::list(show, &columns, spans.iter().map(row).collect())?;
    Ok(0)
}

fn row(s: &v1::Span) -> Row {
    vec![
        ("TraceID", s.trace_id.clone()),
        ("SpanID", s.span_id.clone()),
        ("ParentSpanID", s.parent_span_id.clone()),
        ("Start", muster_model::Timestamp(s.start).to_rfc3339()),
        ("Duration", millis(s.end - s.start)),
        ("Node", s.node.clone()),
        ("Name", s.name.clone()),
        ("Attributes", attributes(s)),
        ("Error", s.error.clone()),
    ]
    .into()
}

fn attributes(s: &v1::Span) -> String {
    let sorted: BTreeMap<_, _> = s.attributes.iter().collect();
    sorted.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

/// The spans as a tree, each with its start after the first one's, how long it took and where.
fn tree(spans: &[v1::Span]) -> String {
    let known: BTreeMap<&str, &v1::Span> = spans.iter().map(|s| (s.span_id.as_str(), s)).collect();
    let mut children: BTreeMap<&str, Vec<&v1::Span>> = BTreeMap::new();
    // A span whose parent nobody remembers stands at the top.
    for s in spans {
        let parent = if known.contains_key(s.parent_span_id.as_str()) { s.parent_span_id.as_str() } else { "" };
        children.entry(parent).or_default().push(s);
    }
    let first = spans.iter().map(|s| s.start).min().unwrap_or(0);
    let mut out = String::new();
    let mut stack: Vec<(usize, &v1::Span)> = children.get("").into_iter().flatten().rev().map(|s| (0, *s)).collect();
    while let Some((depth, s)) = stack.pop() {
        let error = if s.error.is_empty() { String::new() } else { format!("  ERROR {}", s.error) };
        out.push_str(&format!(
            "{:>10} {:>10}  {}{} [{}] {}{error}\n",
            format!("+{}", millis(s.start - first)),
            millis(s.end - s.start),
            "  ".repeat(depth),
            s.name,
            s.node,
            attributes(s)
        ));
        // Depth is bounded by what a person can read; ids that form a circle would never end otherwise.
        if depth < 64 {
            stack.extend(children.get(s.span_id.as_str()).into_iter().flatten().rev().map(|c| (depth + 1, *c)));
        }
    }
    out
}

fn millis(nanos: i64) -> String {
    format!("{:.1} ms", nanos as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_shows_children_below_their_parents_and_orphans_at_the_top() {
        let span = |id: &str, parent: &str, name: &str, start: i64| v1::Span {
            span_id: id.into(),
            parent_span_id: parent.into(),
            name: name.into(),
            start: start * 1_000_000,
            end: (start + 1) * 1_000_000,
            node: "h1".into(),
            ..Default::default()
        };
        let text = tree(&[span("1", "", "api", 0), span("2", "1", "plan", 1), span("3", "9", "pull", 2)]);
        let names: Vec<_> = text.lines().map(|l| l.trim_end()).collect();
        assert!(
            names[0].contains("  api [h1]") && names[1].contains("    plan [h1]") && names[2].contains("  pull [h1]"),
            "{text}"
        );
    }
}
